"""A supernetwork on disk, with networks of it that are ready to use.

supernet.json                 format, space, classes, preprocessing; each network's architecture
weights.safetensors           the shared weights
statistics/NAME.safetensors   running statistics of one network, without which it could not be made again
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from encas.errors import InvalidInput
from encas.files import FileModel, locked, read_model, sha256_of, write_model
from encas.pool import NAME
from encas.preprocess import Interpolation, Preprocess
from encas.search.nat.calibrate import Estimator, calibrated
from encas.search.nat.checkpoint import load_strictly
from encas.search.nat.network import Net
from encas.search.nat.space import Arch, Space
from encas.search.nat.spaces import space_named
from encas.search.nat.supernet import Supernet
from encas.search.nat.tensors import read_tensors, write_tensors

FILE = "supernet.json"
_WEIGHTS = "weights.safetensors"


class Calibrated(FileModel):
    """A network of a supernetwork: an architecture, and a file of its own running statistics."""

    arch: Arch
    statistics: str  # relative to the folder
    sha256: str
    estimator: Estimator
    n_images: int = Field(ge=1)  # that the statistics are from


class SupernetFile(FileModel):
    """`supernet.json`."""

    format: Literal["encas-supernet/1"] = "encas-supernet/1"
    space: str
    bn_eps: float = Field(gt=0)
    n_classes: int = Field(ge=2)
    # image: images are prepared at the resolution of each network, whatever size `preprocess` says; tensor:
    # they are prepared at that size, and the network itself resizes them (bicubic, not antialiased).
    resize: Literal["image", "tensor"] = "image"
    preprocess: Preprocess
    weights_sha256: str
    networks: Mapping[str, Calibrated] = Field(default_factory=dict)


def usual_preprocess(space: Space) -> tuple[Preprocess, Literal["image", "tensor"]]:
    """How the space's published networks were evaluated on ImageNet, and who resizes to their resolution."""
    if space.name in ("alphanet", "attentivenas"):
        interpolation: Interpolation = "bicubic" if space.name == "alphanet" else "bilinear"
        return Preprocess(size=(224, 224), crop_pct=0.875, interpolation=interpolation), "tensor"
    size = (space.searched[-1],) * 2
    if space.name.startswith("ofa"):
        return Preprocess(size=size, crop_pct=0.875, interpolation="bilinear"), "image"
    return Preprocess(size=size), "image"


@dataclass(frozen=True)
class SupernetFolder:
    """A supernetwork on disk. Methods that change it write the files and return the new state."""

    path: Path
    file: SupernetFile

    @classmethod
    def open(cls, path: Path | str) -> "SupernetFolder":
        """Read what is in a folder; weights stay on disk until they are asked for.

        Raises:
            InvalidInput: No such folder, or `supernet.json` is not what it should be.
        """
        path = Path(path)
        if not (path / FILE).is_file():
            raise InvalidInput(f"{path}: holds no {FILE}; make it with 'encas nat init'")
        folder = cls(path, read_model(path / FILE, SupernetFile))
        space_named(folder.file.space)
        for name, network in folder.file.networks.items():
            folder.space.check(network.arch)
            if network.statistics != _statistics(name):
                raise InvalidInput(f"{path / FILE}: statistics of '{name}' must be {_statistics(name)}")
        return folder

    @classmethod
    def create(
        cls,
        path: Path | str,
        supernet: Supernet,
        preprocess: Preprocess,
        resize: Literal["image", "tensor"] = "image",
    ) -> "SupernetFolder":
        """Write a supernetwork into a new folder.

        Raises:
            InvalidInput: There is something already.
        """
        path = Path(path)
        if preprocess.channels != 3:
            raise InvalidInput(f"{path}: supernetworks see in colour; preprocess must have 3 channels")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InvalidInput(f"{path}: exists already; name a new folder")
        write_tensors(path / _WEIGHTS, supernet.net.state_dict())
        space = supernet.space
        file = SupernetFile(
            space=space.name,
            bn_eps=space.bn_eps,
            n_classes=supernet.n_classes,
            resize=resize,
            preprocess=preprocess,
            weights_sha256=sha256_of(path / _WEIGHTS),
        )
        write_model(path / FILE, file)
        return cls(path, file)

    @property
    def space(self) -> Space:
        """The space of its architectures."""
        return replace(space_named(self.file.space), bn_eps=self.file.bn_eps)

    def supernet(self) -> Supernet:
        """Load the shared weights.

        Raises:
            InvalidInput: The file of weights is not the one that was written.
        """
        supernet = Supernet(self.space, self.file.n_classes)
        weights = self._tensors(_WEIGHTS, self.file.weights_sha256)
        load_strictly(supernet, weights, str(self.path / _WEIGHTS))
        return supernet

    def preprocess(self, arch: Arch) -> Preprocess:
        """What is done to an image before a network of this architecture sees it."""
        if self.file.resize == "tensor":
            return self.file.preprocess
        return self.file.preprocess.model_copy(update={"size": (arch.resolution, arch.resolution)})

    def with_network(
        self,
        name: str,
        arch: Arch,
        batches: Iterable[Tensor],
        *,
        supernet: Supernet | None = None,
        estimator: Estimator = "mean",
    ) -> "SupernetFolder":
        """Add a network, calibrated on batches of prepared training images.

        Args:
            name: Of the network; one of this name is replaced.
            arch: Its architecture.
            batches: (n, 3, height, width) each, as `preprocess` says.
            supernet: The shared weights, if they are loaded already.
            estimator: See `encas.search.nat.calibrate`.

        Raises:
            InvalidInput: The name is none, or the space has no such architecture.
        """
        if not _is_name(name):
            raise InvalidInput(f"network '{name}': a name has letters, digits, and a few signs such as . - _")
        n_images = 0

        def resized() -> Iterable[Tensor]:
            nonlocal n_images
            for batch in batches:
                n_images += len(batch)
                yield at_resolution(batch, arch.resolution)

        net = calibrated(supernet or self.supernet(), arch, resized(), estimator)
        statistics = {key: buffer for key, buffer in net.named_buffers() if _is_statistic(key)}
        write_tensors(self.path / _statistics(name), statistics)
        digest = sha256_of(self.path / _statistics(name))
        network = Calibrated(
            arch=arch, statistics=_statistics(name), sha256=digest, estimator=estimator, n_images=n_images
        )
        with locked(self.path):
            now = read_model(self.path / FILE, SupernetFile)
            networks = dict(sorted({**now.networks, name: network}.items()))
            file = now.model_copy(update={"networks": networks})
            write_model(self.path / FILE, file)
        return replace(self, file=file)

    def network(self, name: str) -> "Sized":
        """Make a network with its own statistics; it takes images as `preprocess` says.

        Raises:
            InvalidInput: There is none of this name, or a file is not the one that was written.
        """
        known = self.calibrated(name)
        net = self.supernet().extract(known.arch)
        place = self.path / known.statistics
        statistics = self._tensors(known.statistics, known.sha256)
        wanted = {key: buffer for key, buffer in net.named_buffers() if _is_statistic(key)}
        if {key: tensor.shape for key, tensor in statistics.items()} != {
            key: tensor.shape for key, tensor in wanted.items()
        }:
            raise InvalidInput(f"{place}: are statistics of another architecture; add the network again")
        net.load_state_dict(net.state_dict() | dict(statistics))
        return Sized(net, known.arch.resolution).eval()

    def calibrated(self, name: str) -> Calibrated:
        """What is known of a network.

        Raises:
            InvalidInput: There is none of this name.
        """
        if name not in self.file.networks:
            has = ", ".join(list(self.file.networks)[:5]) or "none"
            raise InvalidInput(
                f"{self.path}: has no calibrated network '{name}' (has: {has}); make it with 'encas nat add'"
            )
        return self.file.networks[name]

    def _tensors(self, file: str, sha256: str) -> Mapping[str, Tensor]:
        if not (self.path / file).is_file():
            raise InvalidInput(f"{self.path / file}: no such file")
        if sha256_of(self.path / file) != sha256:
            raise InvalidInput(f"{self.path / file}: has changed since it was written")
        return read_tensors(self.path / file)


class Sized(nn.Module):
    """A network that brings its input to its resolution, where that is another."""

    def __init__(self, net: Net, resolution: int) -> None:
        super().__init__()
        self.net, self.resolution = net, resolution

    def forward(self, x: Tensor) -> Tensor:
        """(n, c) logits for (n, 3, height, width) images."""
        logits: Tensor = self.net(at_resolution(x, self.resolution))
        return logits


def at_resolution(x: Tensor, resolution: int) -> Tensor:
    """Bring (n, 3, height, width) images to a resolution, bicubic and not antialiased."""
    size = (resolution, resolution)
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bicubic", align_corners=False)


def _is_statistic(key: str) -> bool:
    return key.endswith((".running_mean", ".running_var"))


def _is_name(name: str) -> bool:
    return re.fullmatch(NAME, name) is not None


def _statistics(name: str) -> str:
    return f"statistics/{name}.safetensors"
