"""What a run of Neural Architecture Transfer is told: a file that people write (`configs/nat/`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from encas.errors import InvalidInput
from encas.files import FileModel, parse_model, read_yaml
from encas.preprocess import Interpolation
from encas.search.nat.spaces import space_named


class Images(FileModel):
    """Labelled images, see `encas.data.open_images`; some rows of them, perhaps in another order."""

    path: str  # relative to --data
    rows: str = ":"
    shuffled_by: int | None = None  # seed of a permutation of all images, before rows are taken


class Data(FileModel):
    """What is trained on, what architectures are compared on, and what the pool is also recorded on."""

    train: Images
    val: Images
    test: Images | None = None
    classes: int = Field(ge=2)
    interpolation: Interpolation = "bicubic"
    crop_pct: float = Field(default=1.0, gt=0, le=1)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    # image: images are prepared at each network's resolution; tensor: at `size`, and the tensor is resized.
    resize: Literal["image", "tensor"] = "image"
    size: int | None = Field(default=None, ge=8)
    augment: Literal["crop-and-flip", "strong"] = "crop-and-flip"


class Start(FileModel):
    """Training from scratch by the sandwich rule, before the search."""

    epochs: float = Field(gt=0)
    batch: int = Field(default=128, ge=2)
    rate: float = Field(default=0.2, gt=0)
    weight_decay: float = Field(default=3e-4, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    distillation: Literal["kl", "alpha"] = "kl"
    distillation_share: float = Field(default=0.5, ge=0, le=1)
    n_random: int = Field(default=1, ge=0)
    best_of: int = Field(default=1, ge=1)
    growing: tuple[tuple[float, int], ...] = ()  # until a share of all steps, the highest resolution


class Loop(FileModel):
    """The search: train candidates' weights, evaluate them, guess better candidates, and again."""

    iterations: int = Field(ge=1)
    first: int = Field(ge=3)  # architectures before the first iteration
    candidates: int = Field(ge=3)
    epochs: float = Field(default=0, ge=0)  # per iteration; 0 leaves the weights alone
    batch: int = Field(default=96, ge=2)
    rate: float = Field(default=0.01, gt=0)
    weight_decay: float = Field(default=4e-5, ge=0)
    cut_mix: float = Field(default=0, ge=0, le=1)
    cut_out: int = Field(default=0, ge=0)
    archive: Literal["replaced", "grows"] = "grows"  # what becomes of the archive in each iteration
    search: Literal["nsga3", "mo-gomea"] = "nsga3"
    surrogate_evaluations: int = Field(default=10_000, ge=100)
    predictor_members: int = Field(default=500, ge=1)
    calibration_images: int = Field(default=2_000, ge=2)
    val_images: int | None = Field(default=None, ge=1)  # the first so many, to be quicker
    averaged: int = Field(default=1, ge=1)  # how many iterations' last weights


class Final(FileModel):
    """What becomes members of the pool."""

    networks: int = Field(default=50, ge=1)  # at most: the front, then what only it dominates, and so on
    calibration_images: int = Field(default=13_824, ge=2)


class NatConfig(FileModel):
    """A run for one supernetwork."""

    space: str
    seed: int = Field(default=0, ge=0)
    weights: str | None = None  # published ones, relative to --data; see `encas nat weights`
    data: Data
    start: Start | None = None
    loop: Loop
    final: Final = Final()

    @model_validator(mode="after")
    def _has_a_beginning(self) -> "NatConfig":
        if (self.weights is None) == (self.start is None):
            raise ValueError("name either weights, or how to train from the start")
        try:
            space = space_named(self.space)
        except InvalidInput as error:
            raise ValueError(str(error)) from None
        if (self.data.resize == "tensor") != (self.data.size is not None):
            raise ValueError("data.size belongs to resize: tensor, and is needed there")
        wrong = [side for _, side in self.start.growing if side not in space.searched] if self.start else []
        if wrong:
            raise ValueError(f"start.growing: {self.space} has no resolution {wrong[0]}")
        return self


def read_config(path: Path | str) -> NatConfig:
    """Read a configuration.

    Raises:
        InvalidInput: No such file, not YAML, or a field that is not what it should be.
    """
    return parse_model(read_yaml(Path(path)), NatConfig, str(path))
