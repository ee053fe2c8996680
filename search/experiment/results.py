"""What every part of an experiment leaves for figures and tests: points, and hypervolumes of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encas.evaluation import evaluate, evaluate_members
from encas.files import FileModel
from encas.front import Front
from encas.pool import Pool
from encas.search.pareto import hypervolume, non_dominated

Points = NDArray[np.float64]  # (p, 2) error and mean MACs of a sample


class Traced(FileModel):
    """How a search came along."""

    evaluations: tuple[int, ...]
    points: tuple[tuple[tuple[float, float], ...], ...]  # the front on val after so many


class Result(FileModel):
    """What one part found in one run: what nothing dominates on val, in the same order on both splits."""

    format: str = "encas-result/1"
    part: str
    run: int
    seed: int
    points: Mapping[Literal["val", "test"], tuple[tuple[float, float], ...]]
    most_macs: float  # of the dearest network that took part
    least_macs: float  # of the cheapest
    seconds: float
    trace: Traced | None = None

    def array(self, split: Literal["val", "test"]) -> Points:
        """(p, 2) error and MACs, by rising MACs on val."""
        return np.array(self.points[split], np.float64).reshape(-1, 2)

    def most_accurate(self, split: Literal["val", "test"]) -> float:
        """Accuracy of what is the most accurate on val: test chooses nothing."""
        return 1 - float(self.array(split)[self.array("val")[:, 0].argmin(), 0])


@dataclass(frozen=True)
class Reference:
    """What hypervolumes refer to: the share of the rectangle up to here that is dominated."""

    name: str
    error: float
    macs: float
    least_macs: float | None = None  # given: cost counts by its logarithm, from here on

    def volume(self, points: Points) -> float:
        """Hypervolume in [0, 1] of (p, 2) errors and MACs."""
        if self.least_macs is None:
            return hypervolume(points, (self.error, self.macs))
        logs = np.column_stack([points[:, 0], np.log(points[:, 1] / self.least_macs)])
        # Cascades can be cheaper than every network on its own only by rounding.
        logs[:, 1] = np.maximum(logs[:, 1], 0)
        return hypervolume(logs, (self.error, math.log(self.macs / self.least_macs)))

    def __str__(self) -> str:
        """Say it in words."""
        log = "" if self.least_macs is None else f", cost by its logarithm from {self.least_macs / 1e6:.4g}"
        return f"{self.name}: error {self.error:g}, {self.macs / 1e6:.6g} MMACs{log}"


def of_networks(pool: Pool, splits: tuple[str, str], **about: object) -> Result:
    """The networks of a pool on their own."""
    val, test = (evaluate_members(pool, split) for split in splits)
    both = [np.array([[1 - found[name].accuracy, found[name].macs] for name in val]) for found in (val, test)]
    return _result(both, pool, about)


def of_front(front: Front, pool: Pool, splits: tuple[str, str], **about: object) -> Result:
    """The cascades of a front."""
    both = []
    for split in splits:
        found = [evaluate(candidate.cascade, pool, split) for candidate in front.candidates]
        both.append(np.array([[1 - one.accuracy, one.macs] for one in found]))
    return _result(both, pool, about)


def _result(both: Sequence[Points], pool: Pool, about: Mapping[str, object]) -> Result:
    rows = non_dominated(both[0])
    macs = [member.macs for member in pool.file.members]
    points = {
        split: [tuple(point) for point in points[rows].tolist()]
        for split, points in zip(("val", "test"), both, strict=True)
    }
    return Result.model_validate({"points": points, "most_macs": max(macs), "least_macs": min(macs), **about})
