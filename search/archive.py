"""The elitist archive: the best trade-offs seen so far, spread out where there are too many."""

from dataclasses import dataclass
from typing import TypeVar

import numba as nb
import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives

_DOMINATED, _KNOWN, _NEW = 0, 1, 2
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Verdict:
    """What the archive thought of p offered points, each at its turn."""

    not_dominated: NDArray[np.bool_]  # (p,) no member was better
    new: NDArray[np.bool_]  # (p,) and no member was as good: the front moved


class Archive:
    """Points of which none dominates another; comparisons ignore differences up to `tolerance`.

    Of two points with equal objectives the one whose nearest other member is further away (Hamming distance
    of the genomes) stays. Above 5/4 of `target_size` members a grid is laid over the objectives, as fine as
    `target_size` members allow, and points of one box count as equal; below 3/4 of it the grid goes.

    Source: Luong and Bosman, PPSN 2012 (adaptive grid discretisation).
    """

    def __init__(
        self, n_genes: int, n_objectives: int, *, tolerance: float = 1e-5, target_size: int = 10_000
    ) -> None:
        self._genomes = np.empty((64, n_genes), np.intp)
        self._objectives = np.empty((64, n_objectives))
        self._size = 0
        self._tolerance = tolerance
        self._target_size = target_size
        self._origin = np.zeros(n_objectives)
        self._box = np.zeros(n_objectives)  # side lengths of the grid's boxes; 0: no grid
        self._best: dict[int, int] = {}
        self.is_discretised = False  # whether the grid is on

    def __len__(self) -> int:
        """Count the members."""
        return self._size

    @property
    def genomes(self) -> Genomes:
        """(a, g), in no particular order, the same as that of the objectives."""
        return self._genomes[: self._size]

    @property
    def objectives(self) -> Objectives:
        """(a, o)."""
        return self._objectives[: self._size]

    def best(self, objective: int) -> int:
        """Index of the member with the smallest value of an objective."""
        if objective not in self._best:
            self._best[objective] = int(self.objectives[:, objective].argmin())
        return self._best[objective]

    def offer(self, genomes: Genomes, objectives: Objectives) -> Verdict:
        """Take what improves the archive, point by point in the given order."""
        needed = self._size + len(genomes)
        if needed > len(self._genomes):
            self._genomes = _grown(self._genomes, 2 * needed)
            self._objectives = _grown(self._objectives, 2 * needed)
        verdict = np.empty(len(genomes), np.int8)
        self._size = _offer(
            self._genomes,
            self._objectives,
            self._size,
            genomes,
            objectives,
            self._tolerance,
            self._origin,
            self._box,
            verdict,
        )
        not_dominated = verdict != _DOMINATED
        if not_dominated.any():
            self._best.clear()
            self._adapt()
        return Verdict(not_dominated, verdict == _NEW)

    def _adapt(self) -> None:
        if self._size > 1.25 * self._target_size:
            self._lay_grid()
        elif self.is_discretised and self._size < 0.75 * self._target_size:
            self._box[:] = 0
            self.is_discretised = False

    def _lay_grid(self) -> None:
        """Choose the finest grid with at most `target_size` occupied boxes, and thin the members by it."""
        objectives = self.objectives
        self._origin = objectives.min(axis=0)
        ranges = objectives.max(axis=0) - self._origin
        coarse, fine = 1, 2**26
        while fine - coarse > 1:
            middle = (coarse + fine) // 2
            if _n_occupied(objectives - self._origin, ranges / middle) <= self._target_size:
                coarse = middle
            else:
                fine = middle
        self._box = ranges / coarse
        self.is_discretised = True
        genomes, objectives = self.genomes.copy(), objectives.copy()
        self._size = 0
        self._size = _offer(
            self._genomes,
            self._objectives,
            0,
            genomes,
            objectives,
            self._tolerance,
            self._origin,
            self._box,
            np.empty(len(genomes), np.int8),
        )


def _grown(array: NDArray[Number], length: int) -> NDArray[Number]:
    grown = np.empty((length, array.shape[1]), array.dtype)
    grown[: len(array)] = array
    return grown


def _n_occupied(offsets: Objectives, box: NDArray[np.float64]) -> int:
    return len(np.unique(np.floor(offsets / box), axis=0))


# Rows are given as array and index: slices take numba several times as long to compile.


@nb.njit(cache=True)
def _compare(one, i, other, k, tolerance):  # type: ignore[no-untyped-def]
    """-1: point i of one dominates point k of the other, 1: the other way round, 0: neither."""
    here = there = False
    for j in range(one.shape[1]):
        here |= one[i, j] < other[k, j] - tolerance
        there |= other[k, j] < one[i, j] - tolerance
    if here == there:
        return 0
    return -1 if here else 1


@nb.njit(cache=True)
def _is_equal(one, i, other, k, tolerance, origin, box):  # type: ignore[no-untyped-def]
    """Whether no objective tells two points apart: within the tolerance, or in one box of the grid."""
    for j in range(one.shape[1]):
        a, b = one[i, j], other[k, j]
        if abs(a - b) <= tolerance:
            continue
        if box[j] == 0 or np.floor((a - origin[j]) / box[j]) != np.floor((b - origin[j]) / box[j]):
            return False
    return True


@nb.njit(cache=True)
def _distance(one, i, other, k):  # type: ignore[no-untyped-def]
    """Hamming distance of genome i of one to genome k of the other."""
    distance = 0
    for j in range(one.shape[1]):
        distance += one[i, j] != other[k, j]
    return distance


@nb.njit(cache=True)
def _nearest(one, i, genomes, size, left_out):  # type: ignore[no-untyped-def]
    """Hamming distance of genome i of one to the nearest of the first `size`, without one of them."""
    nearest = one.shape[1] + 1
    for a in range(size):
        if a == left_out:
            continue
        nearest = min(nearest, _distance(one, i, genomes, a))
    return nearest


@nb.njit(cache=True)
def _copy(source, i, target, k):  # type: ignore[no-untyped-def]
    for j in range(source.shape[1]):
        target[k, j] = source[i, j]


@nb.njit(cache=True)
def _offer(genomes, objectives, size, new, new_objectives, tolerance, origin, box, verdict):  # type: ignore[no-untyped-def]
    """Offer the points `new` one by one; write a verdict for each and return the archive's new size."""
    for i in range(len(new)):
        equal = -1
        verdict[i] = _NEW
        for a in range(size):
            order = _compare(objectives, a, new_objectives, i, tolerance)
            if order == -1:
                verdict[i] = _DOMINATED
                break
            if (
                order == 0
                and equal < 0
                and _is_equal(objectives, a, new_objectives, i, tolerance, origin, box)
            ):
                equal = a
        if verdict[i] == _DOMINATED:
            continue
        if equal >= 0:
            verdict[i] = _KNOWN
            if _distance(new, i, genomes, equal) == 0:
                continue
            here = _nearest(genomes, equal, genomes, size, equal)
            if _nearest(new, i, genomes, size, equal) <= here:
                continue
        kept = 0
        for a in range(size):
            if a == equal or _compare(new_objectives, i, objectives, a, tolerance) == -1:
                continue
            _copy(genomes, a, genomes, kept)
            _copy(objectives, a, objectives, kept)
            kept += 1
        _copy(new, i, genomes, kept)
        _copy(new_objectives, i, objectives, kept)
        size = kept + 1
    return size
