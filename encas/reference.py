"""What a cascade did on the samples that it was exported with: where they left, and how sure it was."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from encas.cascade import Answers
from encas.files import FileModel

N_BINS = 32  # of confidences at a stage, by quantiles


class StageReference(FileModel):
    """Samples that left after one stage."""

    edges: tuple[float, ...] = ()  # of the confidence, rising; a bin holds what is below its edge
    counts: tuple[int, ...]  # one more than edges

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0:
            raise ValueError("counts must be one more than edges, none of them below 0")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must rise")
        return self


class GearReference(FileModel):
    """One gear; its places run from the surest sample of the first stage to the least sure of the last."""

    stages: tuple[StageReference, ...] = Field(min_length=1)

    @classmethod
    def of(cls, answers: Answers, n_stages: int) -> Self:
        """Count answers."""
        stages = []
        for stage in range(n_stages):
            found = np.nan_to_num(answers.confidence[answers.exit_stage == stage].astype(np.float64))
            quantiles = np.quantile(found, np.arange(1, N_BINS) / N_BINS) if len(found) else np.empty(0)
            edges = np.unique(quantiles)
            counts = np.bincount(np.searchsorted(edges, found, side="right"), minlength=len(edges) + 1)
            stages.append(StageReference(edges=tuple(edges.tolist()), counts=tuple(counts.tolist())))
        return cls(stages=tuple(stages))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples at each place."""
        return np.concatenate([np.array(stage.counts[::-1], np.int64) for stage in self.stages])

    def places(self, exit_stages: Sequence[int], confidences: Sequence[float]) -> NDArray[np.intp]:
        """Find the place of each answer."""
        starts = list(accumulate((len(stage.counts) for stage in self.stages), initial=0))
        found = [
            starts[stage + 1] - 1 - bisect_right(self.stages[stage].edges, confidence)
            for stage, confidence in zip(exit_stages, confidences, strict=True)
        ]
        return np.array(found, np.intp)


class ReferenceFile(FileModel):
    """`reference.json` of a bundle: what each gear did on one split."""

    format: Literal["encas-reference/1"] = "encas-reference/1"
    split: str
    n: int = Field(ge=1)
    gears: tuple[GearReference, ...] = Field(min_length=1)

    def check(self, n_stages: Sequence[int]) -> None:
        """Check that it is about such gears.

        Raises:
            ValueError: It is about others.
        """
        found = [len(gear.stages) for gear in self.gears]
        if found != list(n_stages):
            raise ValueError(f"is about gears of {found} stages, the bundle's have {list(n_stages)}")


def reference_of(split: str, answers: Sequence[Answers], n_stages: Sequence[int]) -> ReferenceFile:
    """Count what each gear answered on all samples of a split."""
    gears: list[Any] = [GearReference.of(one, k) for one, k in zip(answers, n_stages, strict=True)]
    return ReferenceFile(split=split, n=len(answers[0]), gears=tuple(gears))
