"""What a supernetwork offers: a space of architectures, and one architecture as a value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from encas.errors import InvalidInput

Act = Literal["relu", "relu6", "hswish", "swish"]
Choose = Callable[[Sequence[int]], int]


@dataclass(frozen=True)
class Stage:
    """The choices for blocks in a row, all with the same width; the first one may halve the resolution."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]  # number of blocks
    kernels: tuple[int, ...]  # of the depthwise convolution
    expands: tuple[int, ...]  # how many times wider the middle of a block is; 1: no convolution widens it
    stride: int
    act: Act
    se: bool = False  # squeeze and excitation


@dataclass(frozen=True)
class Space:
    """The choices for a whole network; all sizes rise.

    A stem, stages of inverted residual blocks, and a head: if `final_expand` is not 0, a convolution to so
    many times the last width, pooling and a layer without normalisation (as in MobileNetV3), otherwise a
    convolution, then pooling (as in MobileNetV2); then the classifier.
    """

    name: str
    resolutions: tuple[int, ...]
    searched: tuple[int, ...]  # the resolutions that genes can say
    stem_widths: tuple[int, ...]
    stages: tuple[Stage, ...]
    head_widths: tuple[int, ...]
    act: Act  # of stem and head
    final_expand: int
    # identity: around blocks that change no shape; project: around all, pooled and convolved where needed.
    shortcut: Literal["identity", "project"]
    kernel_matrices: bool  # whether small kernels are learnt from large ones, or are their centres
    genes_per: Literal["block", "stage"]  # kernels and expands are chosen for each
    bn_eps: float = 1e-5

    def pick(self, choose: Choose) -> "Arch":
        """Make an architecture by one choice after the other."""
        resolution, stem = choose(self.searched), choose(self.stem_widths)
        stages = []
        for stage in self.stages:
            width, depth = choose(stage.widths), choose(stage.depths)
            if self.genes_per == "stage":
                kernels, expands = (choose(stage.kernels),) * depth, (choose(stage.expands),) * depth
            else:
                kernels = tuple(choose(stage.kernels) for _ in range(depth))
                expands = tuple(choose(stage.expands) for _ in range(depth))
            stages.append(StageArch(width, kernels, expands))
        return Arch(resolution, stem, tuple(stages), choose(self.head_widths))

    @property
    def largest(self) -> "Arch":
        """The architecture that all others are parts of."""
        return self.pick(max)

    @property
    def smallest(self) -> "Arch":
        """The least of everything."""
        return self.pick(min)

    def sample(self, rng: np.random.Generator) -> "Arch":
        """Choose everything uniformly."""
        return self.pick(lambda choices: choices[int(rng.integers(len(choices)))])

    @property
    def n_archs(self) -> int:
        """Number of different architectures, over the resolutions that are searched."""
        n = len(self.searched) * len(self.stem_widths) * len(self.head_widths)
        return n * prod(self._n_stage_archs(stage) for stage in self.stages)

    def _n_stage_archs(self, stage: Stage) -> int:
        kinds = len(stage.kernels) * len(stage.expands)
        by_depth = (kinds if self.genes_per == "stage" else kinds**depth for depth in stage.depths)
        return len(stage.widths) * sum(by_depth)

    def check(self, arch: "Arch") -> None:
        """Check that an architecture is one of the space.

        Raises:
            InvalidInput: Names the first choice that the space does not have.
        """
        self._check("resolution", arch.resolution, self.resolutions)
        self._check("stem width", arch.stem, self.stem_widths)
        self._check("head width", arch.head, self.head_widths)
        self._check("number of stages", len(arch.stages), (len(self.stages),))
        for index, (stage, chosen) in enumerate(zip(self.stages, arch.stages, strict=True)):
            place = f"stage {index}: "
            self._check(f"{place}width", chosen.width, stage.widths)
            self._check(f"{place}depth", len(chosen.kernels), stage.depths)
            self._check(f"{place}number of expands", len(chosen.expands), (len(chosen.kernels),))
            for kernel, expand in zip(chosen.kernels, chosen.expands, strict=True):
                self._check(f"{place}kernel", kernel, stage.kernels)
                self._check(f"{place}expand", expand, stage.expands)
            same = len({*zip(chosen.kernels, chosen.expands, strict=True)}) == 1
            if self.genes_per == "stage" and not same:
                raise InvalidInput(f"{self.name}: {place}all blocks must have the same kernel and expand")

    def _check(self, what: str, found: int, choices: tuple[int, ...]) -> None:
        if found not in choices:
            shown = ", ".join(map(str, choices)) if len(choices) < 10 else f"{choices[0]} to {choices[-1]}"
            raise InvalidInput(f"{self.name}: {what} {found} is impossible; must be {shown}")


@dataclass(frozen=True)
class StageArch:
    """What is chosen for a stage; only blocks that run are told of, so equal networks are equal values."""

    width: int
    kernels: tuple[int, ...]  # one for each block
    expands: tuple[int, ...]


@dataclass(frozen=True)
class Arch:
    """One architecture of a space."""

    resolution: int  # height and width of its input
    stem: int
    stages: tuple[StageArch, ...]
    head: int
