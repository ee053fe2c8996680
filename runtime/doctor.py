"""What is installed here, which providers really work, and what clashes."""

import platform
import re
import shutil
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Literal

from encas.errors import EncasError
from encas.files import FileModel
from encas.runtime.machine import cpu_name, cuda_devices, usable_cores
from encas.runtime.session import clash, installed_version, provider_failure

# name[its extras]>=minimum; extra == "ours"
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?\s*(?:>=(?P<minimum>[\d.]+))?[^;]*"
    r"(?:;.*extra == ['\"](?P<extra>[\w-]+))?"
)


class Package(FileModel):
    """One distribution that encas, or one of its extras, asks for."""

    name: str
    minimum: str | None = None
    version: str | None = None  # None: not installed

    @property
    def is_too_old(self) -> bool:
        """Whether it is there, in a version below the one that is asked for."""
        if self.version is None or self.minimum is None:
            return False
        return _numbers(self.version) < _numbers(self.minimum)


class Extra(FileModel):
    """The packages behind `pip install 'encas[name]'`; the base installation is called "base"."""

    name: str
    packages: tuple[Package, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the packages that are not there."""
        return tuple(package.name for package in self.packages if package.version is None)

    @property
    def install(self) -> str:
        """How to get what is missing."""
        return "pip install encas" if self.name == "base" else f"pip install 'encas[{self.name}]'"


class Provider(FileModel):
    """Whether ONNX Runtime computes a tiny network on a provider."""

    name: str
    works: bool
    why: str | None = None  # it does not


class Report(FileModel):
    """Everything that `encas doctor` finds."""

    format: Literal["encas-doctor/1"] = "encas-doctor/1"
    encas: str
    python: str
    system: str
    cpu: str
    cores: int
    disk_free_bytes: int  # where the command was called
    cuda_devices: tuple[str, ...]
    extras: tuple[Extra, ...]
    providers: tuple[Provider, ...]
    clashes: tuple[str, ...]

    def to_install(self) -> tuple[Extra, ...]:
        """Extras of which something is missing; of the two builds of ONNX Runtime only the one for here."""
        runtimes = [extra for extra in self.extras if extra.name in ("cpu", "gpu")]
        if any(not extra.missing for extra in runtimes):
            other = {"cpu", "gpu"}
        else:
            other = {"cpu"} if self.cuda_devices else {"gpu"}
        return tuple(extra for extra in self.extras if extra.missing and extra.name not in other)


def examine(folder: Path, version_of: Callable[[str], str | None] = installed_version) -> Report:
    """Look at this installation and this machine.

    Args:
        folder: Whose disk's free space is reported.
        version_of: Finds the installed version of a distribution, None if it is not there.
    """
    extras = find_extras(metadata.requires("encas") or (), version_of)
    providers = tuple(_provider(name) for name in ("cpu", "cuda"))
    devices = cuda_devices()
    return Report(
        encas=metadata.version("encas"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        cores=usable_cores(),
        disk_free_bytes=shutil.disk_usage(folder).free,
        cuda_devices=devices,
        extras=extras,
        providers=providers,
        clashes=tuple(find_clashes(extras, version_of, providers, devices)),
    )


def find_extras(requirements: Iterable[str], version_of: Callable[[str], str | None]) -> tuple[Extra, ...]:
    """Group the requirements of encas by extra, as the package's own metadata states them."""
    found: dict[str, list[Package]] = {"base": []}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None or match["name"] == "encas" or match["extra"] == "dev":
            continue
        package = Package(name=match["name"], minimum=match["minimum"], version=version_of(match["name"]))
        found.setdefault(match["extra"] or "base", []).append(package)
    return tuple(Extra(name=name, packages=tuple(packages)) for name, packages in found.items())


def find_clashes(
    extras: Iterable[Extra],
    version_of: Callable[[str], str | None],
    providers: Iterable[Provider],
    devices: tuple[str, ...],
) -> list[str]:
    """Say in one line each what cannot work together, and what to do about it."""
    found = [line for line in [clash(version_of)] if line is not None]
    old = {package.name: package for extra in extras for package in extra.packages if package.is_too_old}
    found += [
        f"{name} {package.version} is too old, {package.minimum} or newer is needed: "
        f"pip install --upgrade '{name}>={package.minimum}'"
        for name, package in old.items()
    ]
    gpu_runtime, torch = version_of("onnxruntime-gpu"), version_of("torch")
    if gpu_runtime is not None and torch is not None and torch.endswith("+cpu"):
        found.append(
            f"torch {torch} is built for the CPU only, beside onnxruntime-gpu {gpu_runtime}: networks are "
            "recorded on the CPU, and the CUDA libraries that torch brings are missing; install a CUDA build"
        )
    cuda = next((provider for provider in providers if provider.name == "cuda"), None)
    if gpu_runtime is not None and devices and cuda is not None and not cuda.works:
        found.append(
            f"onnxruntime-gpu {gpu_runtime} does not work on the {devices[0]} that is here: {cuda.why}"
        )
    return found


def _provider(name: str) -> Provider:
    try:
        why = provider_failure(name)
    except EncasError as error:
        why = str(error)
    except Exception as error:  # a broken installation fails in ways of its own, and that is worth reporting
        why = f"onnxruntime cannot be imported: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return Provider(name=name, works=why is None, why=why)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, which is all that a minimum asks about."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
