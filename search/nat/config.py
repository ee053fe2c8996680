"""What a run of Neural Architecture Transfer is told: a file that people write (`configs/nat/`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from encas.errors import InvalidInput
from encas.files import FileModel, parse_model, read_yaml
from encas.preprocess import Interpolation
from encas.search.nat.population import Population
from encas.search.nat.space import Space
from encas.search.nat.spaces import space_named


class Images(FileModel):
    """Labelled images, see `encas.data.open_images`; some rows of them, perhaps in another order."""

    path: str  # relative to --data
    rows: str = ":"
    shuffled_by: int | None = None  # seed of a permutation of all images, before rows are taken
    per_class: int | None = Field(default=None, ge=1)  # the first so many of each class, before rows too


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


class Phases(FileModel):
    """The share of all steps that each phase of progressive shrinking has."""

    full: float = Field(default=0.4, gt=0)  # the largest network alone
    kernel: float = Field(default=0.2, ge=0)  # then smaller kernels too,
    depth: float = Field(default=0.2, ge=0)  # fewer blocks,
    expand: float = Field(default=0.2, ge=0)  # and narrower ones

    @model_validator(mode="after")
    def _is_whole(self) -> "Phases":
        total = self.full + self.kernel + self.depth + self.expand
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares must add up to 1, not to {total:.6g}")
        return self


class Start(FileModel):
    """Training from scratch, before the search."""

    rule: Literal["sandwich", "shrinking"] = "sandwich"
    phases: Phases | None = None  # of shrinking
    epochs: float = Field(gt=0)
    batch: int = Field(default=128, ge=2)
    rate: float = Field(default=0.2, gt=0)
    weight_decay: float = Field(default=3e-4, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    distillation: Literal["kl", "alpha"] = "kl"
    distillation_share: float = Field(default=0.5, ge=0, le=1)
    n_random: int = Field(default=1, ge=0)  # networks in each step, of shrinking after its first phase
    best_of: int = Field(default=1, ge=1)
    growing: tuple[tuple[float, int], ...] = ()  # until a share of all steps, the highest resolution

    @model_validator(mode="after")
    def _has_one_rule(self) -> "Start":
        if self.rule == "sandwich" and self.phases is not None:
            raise ValueError("phases belong to rule: shrinking")
        if self.rule == "shrinking" and (self.best_of > 1 or self.n_random < 1):
            raise ValueError("rule: shrinking trains random networks (n_random) without best_of")
        return self


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
    cosine: Literal["restarted", "once"] = "restarted"  # one fall of the rate by iteration, or over them all
    # marginals: architectures that are trained have genes of the candidates, each drawn by itself.
    trained: Literal["candidates", "marginals"] = "candidates"
    archive: Literal["replaced", "grows"] = "grows"  # what becomes of the archive in each iteration
    search: Literal["nsga3", "mo-gomea"] = "nsga3"
    surrogate_evaluations: int = Field(default=10_000, ge=100)
    predictor_members: int = Field(default=500, ge=1)
    fitted_on: int | None = Field(default=None, ge=3)  # at most so many of the archive, the front first
    calibration_images: int = Field(default=2_000, ge=2)
    val_images: int | None = Field(default=None, ge=1)  # the first so many, to be quicker
    averaged: int = Field(default=1, ge=1)  # how many iterations' last weights


class Final(FileModel):
    """What becomes members of the pool."""

    front: Literal["all", "last"] = "all"  # of what all iterations evaluated, or the last one
    # At most: the cheapest and the dearest, the front of the rest, then what only that dominates, and so on.
    networks: int = Field(default=50, ge=2)
    calibration_images: int = Field(default=13_824, ge=2)


class Other(FileModel):
    """A further supernetwork, whose space has the same genes."""

    space: str
    weights: str | None = None


class NatConfig(FileModel):
    """A run for one supernetwork, or for several that are searched as one population."""

    space: str
    seed: int = Field(default=0, ge=0)
    weights: str | None = None  # published ones, relative to --data; see `encas nat weights`
    others: tuple[Other, ...] = ()
    data: Data
    start: Start | None = None
    loop: Loop
    final: Final = Final()

    @model_validator(mode="after")
    def _has_a_beginning(self) -> "NatConfig":
        if any((one is None) == (self.start is None) for one in self.all_weights):
            raise ValueError("name either weights, or how to train from the start")
        try:
            spaces = self.population.spaces
        except InvalidInput as error:
            raise ValueError(str(error)) from None
        if len(set(spaces)) < len(spaces):
            raise ValueError("others: each space must be another one")
        if min(self.loop.first, self.loop.candidates) <= 2 * len(spaces):
            raise ValueError(
                f"loop: first and candidates must be above {2 * len(spaces)}, "
                "since the smallest and the largest are always among them"
            )
        space = spaces[0]
        if (self.data.resize == "tensor") != (self.data.size is not None):
            raise ValueError("data.size belongs to resize: tensor, and is needed there")
        wrong = [side for _, side in self.start.growing if side not in space.searched] if self.start else []
        if wrong:
            raise ValueError(f"start.growing: {self.space} has no resolution {wrong[0]}")
        if self.start and self.start.rule == "shrinking" and not all(map(has_one_width, spaces)):
            raise ValueError(f"start.rule: the widths of {self.space} are searched, which sandwich trains")
        return self

    @property
    def population(self) -> Population:
        """All architectures that are searched."""
        names = (self.space, *(other.space for other in self.others))
        return Population(tuple(space_named(name) for name in names), self.data.classes)

    @property
    def all_weights(self) -> tuple[str | None, ...]:
        """Published ones of each supernetwork."""
        return (self.weights, *(other.weights for other in self.others))


def has_one_width(space: Space) -> bool:
    """Whether channels between blocks are fixed, as in the spaces of once-for-all."""
    widths = [space.stem_widths, space.head_widths, *(stage.widths for stage in space.stages)]
    return all(len(one) == 1 for one in widths)


def read_config(path: Path | str) -> NatConfig:
    """Read a configuration.

    Raises:
        InvalidInput: No such file, not YAML, or a field that is not what it should be.
    """
    return parse_model(read_yaml(Path(path)), NatConfig, str(path))
