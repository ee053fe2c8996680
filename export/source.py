"""Where a member's network comes from: what a user says of it, and what that opens to."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from encas.errors import InvalidInput, require
from encas.files import FileModel, parse_model, read_yaml, sha256_of
from encas.member import NAME, Member, Precision
from encas.preprocess import Preprocess

if TYPE_CHECKING:
    from encas.export.modules import Opened

KINDS = ("timm", "torchvision", "torch", "onnx", "nat", "ofa")
_FORMS = "timm:NAME, torchvision:NAME, torch:MODULE:FUNCTION, onnx:FILE, nat:FOLDER#NETWORK or ofa:NAME"
_WITH_WEIGHTS = ("onnx", "nat")  # what these name on disk holds them already


class Network(Protocol):
    """A network that is ready to run, with what a pool notes of it."""

    @property
    def preprocess(self) -> Preprocess:
        """What it wants done to an image."""

    @property
    def n_classes(self) -> int:
        """Number of its outputs."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample."""

    @property
    def params(self) -> int:
        """Number of weights."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    @property
    def engine(self) -> str:
        """What computes `probs`, as "torch 2.14.1"."""

    def probs(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, c) softmax outputs for (n, channels, height, width) inputs."""

    def write_onnx(self, path: Path) -> None:
        """Write it as an ONNX graph with a free batch axis that does what `probs` does."""


class MemberSpec(FileModel):
    """What a user says of a network to record."""

    source: str  # see _FORMS
    name: str | None = Field(default=None, pattern=NAME)
    weights: str | None = None
    preprocess: Preprocess | None = None  # instead of what the source itself brings

    @property
    def kind(self) -> str:
        """What stands before the first colon."""
        return self.source.partition(":")[0]

    @property
    def rest(self) -> str:
        """What stands behind the first colon."""
        return self.source.partition(":")[2]

    @property
    def member_name(self) -> str:
        """The name it was given, or one that its source suggests."""
        if self.name is not None:
            return self.name
        if self.kind == "onnx":
            text = Path(self.rest).stem
        elif self.kind == "torch":
            text = self.rest.rpartition(":")[2]
        elif self.kind == "nat":
            text = self.rest.rpartition("#")[2]
        else:
            text = self.rest.replace(":", ".")
        return as_name(text)


class _MembersFile(FileModel):
    members: tuple[MemberSpec, ...] = Field(min_length=1)


def as_name(text: str) -> str:
    """Make a name out of any text: letters, digits and a few signs stay."""
    return re.sub(r"[^A-Za-z0-9_.+#@=-]+", "-", text).lstrip("-.+#@=")[:200] or "member"


def read_members(path: Path) -> tuple[MemberSpec, ...]:
    """Read a YAML list of members; files that it names are relative to it.

    Raises:
        InvalidInput: No such file, not YAML, or not a list of `MemberSpec`.
    """
    value = read_yaml(path)
    if not isinstance(value, list):
        raise InvalidInput(
            f"{path}: must be a list of members, each with a source; is {type(value).__name__}"
        )
    specs = parse_model({"members": value}, _MembersFile, str(path)).members
    return tuple(absolute(spec, path.parent) for spec in specs)


def read_preprocess(path: Path) -> Preprocess:
    """Read a preprocessing from YAML or JSON.

    Raises:
        InvalidInput: No such file, not YAML, or not what `Preprocess` says.
    """
    return parse_model(read_yaml(path), Preprocess, str(path))


def absolute(spec: MemberSpec, folder: Path) -> MemberSpec:
    """Return the same member, the files that it names found from a folder.

    Raises:
        InvalidInput: The source is none, or a file is not there.
    """
    divider = {"torch": ":", "nat": "#"}.get(spec.kind, "")
    if spec.kind not in KINDS or not spec.rest or divider not in spec.rest.strip(divider or None):
        raise InvalidInput(f"source '{spec.source}': must be {_FORMS}")
    update = {}
    if spec.kind in _WITH_WEIGHTS and spec.weights is not None:
        raise InvalidInput(f"{spec.source}: holds its weights already; leave out {spec.weights}")
    if spec.kind == "onnx":
        update["source"] = f"onnx:{_found(spec.rest, folder)}"
    if spec.kind == "nat":
        supernet, _, network = spec.rest.rpartition("#")
        update["source"] = f"nat:{(folder / supernet).resolve()}#{network}"
    if spec.weights is not None:
        update["weights"] = _found(spec.weights, folder)
    return spec.model_copy(update=update)


def portable(path: Path | str, pool: Path) -> str:
    """Write a path for `pool.json`: relative to the pool if inside or beside it, else absolute."""
    path, pool = Path(path).resolve(), pool.resolve()
    return os.path.relpath(path, pool) if path.is_relative_to(pool.parent) else str(path)


def as_stored(spec: MemberSpec, pool: Path) -> MemberSpec:
    """Return the same member with its files named as `pool.json` names them."""
    source = spec.source
    if spec.kind == "onnx":
        source = f"onnx:{portable(spec.rest, pool)}"
    if spec.kind == "nat":
        supernet, _, network = spec.rest.rpartition("#")
        source = f"nat:{portable(supernet, pool)}#{network}"
    weights = None if spec.weights is None else portable(spec.weights, pool)
    return spec.model_copy(update={"source": source, "weights": weights})


def weights_sha256(spec: MemberSpec) -> str | None:
    """Digest of the file that holds a network's weights, None if the source brings them by itself."""
    if spec.kind == "onnx":
        return sha256_of(Path(spec.rest))
    return None if spec.weights is None else sha256_of(Path(spec.weights))


def spec_of(member: Member, pool: Path, *, allow_code: bool) -> MemberSpec:
    """Say how to open the network of a recorded member again.

    Raises:
        InvalidInput: Only its outputs were imported, a file is gone or has changed, or it is a Python
            function and running what a file names was not allowed.
    """
    if member.source == "imported":
        raise InvalidInput(
            f"{pool}: member '{member.name}' has imported outputs only; record its network to export it: "
            f"encas pool record {pool} --member SOURCE --name {member.name} --data DATA"
        )
    spec = MemberSpec(
        source=member.source, name=member.name, weights=member.weights, preprocess=member.preprocess
    )
    if spec.kind == "torch" and not allow_code:
        raise InvalidInput(
            f"{pool}: member '{member.name}' would run the Python function {spec.rest}; add --allow-code if "
            "you trust the pool"
        )
    spec = absolute(spec, pool)
    if member.sha256 not in (None, weights_sha256(spec)):
        raise InvalidInput(
            f"{spec.weights or spec.rest}: has changed since member '{member.name}' was recorded; record it "
            f"again on every split: encas pool record {pool} --again"
        )
    return spec


def open_network(spec: MemberSpec, device: str = "cpu", default: Preprocess | None = None) -> Network:
    """Open a network on "cpu" or "cuda".

    Args:
        spec: As `absolute` returns it.
        device: Where `probs` computes.
        default: Preprocessing for a network of which neither `spec` nor the source tells it.

    Raises:
        MissingPackage: A package for this kind of source is missing.
        InvalidInput: There is no such network, its weights do not fit, or no preprocessing is known.
    """
    if spec.kind == "onnx":
        require("onnx", "export")
        from encas.export.onnx_network import open_onnx  # noqa: PLC0415  (needs no torch)

        return open_onnx(Path(spec.rest), _needed(spec, None, default), device)
    require("torch", "export")
    if spec.kind in ("timm", "torchvision"):
        require(spec.kind, "export")
    from encas.export.torch_network import open_module  # noqa: PLC0415  (torch takes seconds to import)

    module, own = _opener(spec.kind)(spec.rest, None if spec.weights is None else Path(spec.weights))
    return open_module(module, _needed(spec, own, default), device, spec.source)


def _opener(kind: str) -> "Callable[[str, Path | None], Opened]":
    if kind == "ofa":
        require("ofa", "nat")
        from encas.export.specialised import from_ofa  # noqa: PLC0415  (others do without that package)

        return from_ofa
    from encas.export import modules  # noqa: PLC0415

    return {
        "timm": modules.from_timm,
        "torchvision": modules.from_torchvision,
        "torch": modules.from_function,
        "nat": modules.from_supernet,
    }[kind]


def first_twice(names: Sequence[str]) -> str | None:
    """Return the first name that occurs a second time, None if each is there once."""
    return next((name for j, name in enumerate(names) if name in names[:j]), None)


def _needed(spec: MemberSpec, own: Preprocess | None, default: Preprocess | None) -> Preprocess:
    preprocess = spec.preprocess or own or default
    if preprocess is None:
        raise InvalidInput(
            f"{spec.source}: does not say how to prepare an image; give it with --preprocess FILE, as in "
            "{size: 32, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
        )
    return preprocess


def _found(file: str, folder: Path) -> str:
    path = (folder / file).resolve()
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    return str(path)
