"""A bundle: a folder with everything that a cascade needs to run, and the digests that prove it whole."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from encas.cascade import Cascade
from encas.errors import InvalidInput
from encas.files import FileModel, read_model, sha256_of
from encas.gears import GearsFile, Point
from encas.member import NAME, Precision
from encas.preprocess import Preprocess
from encas.reference import ReferenceFile

_BUNDLE_JSON = "bundle.json"
GEARS_JSON = "gears.json"
REFERENCE_JSON = "reference.json"


class Parity(FileModel):
    """How far the exported network is from its source, on real inputs."""

    n: int = Field(ge=1)
    max_abs_difference: float = Field(ge=0)  # of probabilities
    changed_labels: int = Field(ge=0)


class BundleMember(FileModel):
    """One network: an ONNX graph from preprocessed images (n, channels, height, width) to probs (n, c)."""

    name: str = Field(pattern=NAME)
    file: str
    input: str  # float32
    output: str  # float32 softmax outputs
    preprocess: Preprocess
    macs: int = Field(ge=0)
    params: int | None = None
    opset: int
    precision: Precision = "fp32"
    source: str
    parity: Parity


class CascadeParity(FileModel):
    """How the exported cascade's decisions compare with those that the pool recorded."""

    split: str
    n: int = Field(ge=1)
    different: int = Field(ge=0)  # samples with another exit stage or class
    near_threshold: int = Field(ge=0)  # of these, so close to a threshold that rounding decides


class GoldenSample(FileModel):
    """A real input with the answer that the bundle must give."""

    file: str
    label: int
    exit_stage: int
    confidence: float


class BundleFile(FileModel):
    """`bundle.json`."""

    format: Literal["encas-bundle/1"] = "encas-bundle/1"
    name: str = Field(pattern=NAME)
    version: str = "1"
    files: Mapping[str, str]  # path relative to the bundle -> sha256
    members: tuple[BundleMember, ...] = Field(min_length=1)
    parity: CascadeParity | None = None
    golden: tuple[GoldenSample, ...] = ()
    versions: Mapping[str, str] = Field(default_factory=dict)  # of what wrote it
    sha256: str = ""  # of everything above, see `sealed`

    def sealed(self) -> "BundleFile":
        """Return the same with its own digest, so that a change of this file is noticed as well."""
        content = self.model_dump(mode="json", exclude={"sha256"})
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self.model_copy(update={"sha256": digest})

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: Mapping[str, str]) -> Mapping[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name != str(path):
                raise ValueError(f"file '{name}' must be a plain path inside the bundle")
        return files


class LabelsFile(FileModel):
    """`labels.json`: the name of each class, in the order of the outputs."""

    format: Literal["encas-labels/1"] = "encas-labels/1"
    labels: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were found to match their digests."""

    path: Path
    file: BundleFile
    cascade: Cascade
    labels: tuple[str, ...]
    cheaper: tuple[Cascade, ...] = ()  # gears below the cascade, by falling cost
    front: tuple[Point, ...] = ()  # where the gears come from, if it is known
    reference: ReferenceFile | None = None  # what the gears did when it was exported

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """Read and verify a bundle.

        Raises:
            InvalidInput: No bundle, a file is missing or changed, or the parts do not fit together.
        """
        path = Path(path)
        if not (path / _BUNDLE_JSON).is_file():
            what = "holds no bundle.json" if path.is_dir() else "no such folder"
            raise InvalidInput(f"{path}: {what}; make a bundle with 'encas export cascade.json'")
        file = read_model(path / _BUNDLE_JSON, BundleFile)
        members, golden = [member.file for member in file.members], [sample.file for sample in file.golden]
        for needed in ("cascade.json", "labels.json", *members, *golden):
            if needed not in file.files:
                raise InvalidInput(f"{path / _BUNDLE_JSON}: files: lists no {needed}")
        for name, digest in file.files.items():
            _verify(path, name, digest)
        gears = read_model(path / GEARS_JSON, GearsFile) if GEARS_JSON in file.files else None
        bundle = cls(
            path,
            file,
            Cascade.read(path / "cascade.json"),
            read_model(path / "labels.json", LabelsFile).labels,
            () if gears is None else gears.cheaper,
            () if gears is None else gears.front,
            read_model(path / REFERENCE_JSON, ReferenceFile) if REFERENCE_JSON in file.files else None,
        )
        if bundle.reference is not None:
            try:
                bundle.reference.check([len(gear.stages) for gear in bundle.gears])
            except ValueError as error:
                raise InvalidInput(f"{path / REFERENCE_JSON}: {error}") from None
        for gear in bundle.gears:
            for name in gear.member_names:
                bundle.member(name)
        if file.sealed().sha256 != file.sha256:
            raise InvalidInput(f"{path / _BUNDLE_JSON}: changed since it was exported; export again")
        return bundle

    @property
    def name(self) -> str:
        """Name of the model behind an endpoint."""
        return self.file.name

    @property
    def gears(self) -> tuple[Cascade, ...]:
        """The cascade, and the cheaper ones that a server may take instead."""
        return (self.cascade, *self.cheaper)

    def at_gear(self, gear: int) -> "Bundle":
        """Return the same bundle with the cascade of one gear, and no others."""
        return replace(self, cascade=self.gears[gear], cheaper=())

    def member(self, name: str) -> BundleMember:
        """Find the network of a stage.

        Raises:
            InvalidInput: The bundle has no such member.
        """
        for member in self.file.members:
            if member.name == name:
                return member
        raise InvalidInput(f"{self.path}: the cascade names a member '{name}' that the bundle lacks")

    def content(self, name: str) -> bytes:
        """Read a file of the bundle, and verify what was read: it may have been exchanged since `open`.

        Raises:
            InvalidInput: It is not there, or is not what `bundle.json` lists.
        """
        path = _inside(self.path, name)
        content = path.read_bytes()
        _compare(path, hashlib.sha256(content).hexdigest(), self.file.files.get(name))
        return content

    @property
    def gear_members(self) -> tuple[BundleMember, ...]:
        """Every network that any gear runs, once."""
        names = dict.fromkeys(name for gear in self.gears for name in gear.member_names)
        return tuple(self.member(name) for name in names)

    @property
    def stage_members(self) -> tuple[BundleMember, ...]:
        """The network of each stage, in order."""
        return tuple(self.member(name) for name in self.cascade.member_names)


def _verify(folder: Path, name: str, digest: str) -> None:
    path = _inside(folder, name)
    _compare(path, sha256_of(path), digest)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():  # nor a pipe, which would be waited for
        raise InvalidInput(f"{path}: the bundle lists this file, and it is not there")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidInput(f"{path}: is a link that leads out of the bundle")
    return path


def _compare(path: Path, found: str, digest: str | None) -> None:
    """Compare digests; None: a bundle that was never written lists none."""
    if digest is not None and found != digest:
        raise InvalidInput(
            f"{path}: changed since it was exported (sha256 {found[:12]}, bundle.json says "
            f"{digest[:12]}); export again"
        )
