"""All thresholds of one stage of a cascade in one pass, and what that makes of a front.

For a row of members it is computed once how sure each stage is of each sample, and whether it is right.
Whoever reaches a stage, sorted by how sure it is there: each place between two of them is a threshold, and
running sums of who is right when leaving, who is right when going on, and who gets to which later stage tell
error and cost of all of these thresholds at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encas.search.between import between


@dataclass(frozen=True)
class Table:
    """What each of k stages would say of all n samples, whether they get there or not."""

    confidence: NDArray[np.float32]  # (k, n)
    is_right: NDArray[np.bool_]  # (k, n)


@dataclass(frozen=True)
class Sweep:
    """What a cascade does with each of q thresholds of one stage."""

    lows: NDArray[np.float32]  # (q,) the surest of those that stay
    highs: NDArray[np.float32]  # (q,) the least sure of those that leave
    right: NDArray[np.int64]  # (q,)
    reached: NDArray[np.int64]  # (q, k)

    def threshold(self, row: int) -> float:
        """Return a number between those that stay and those that leave."""
        return between(float(self.lows[row]), float(self.highs[row]))


def sweep(table: Table, thresholds: Sequence[float], stage: int) -> Sweep:
    """Try every threshold of a stage that some sample leaves at and some other does not.

    Args:
        table: Of the cascade's members.
        thresholds: (k - 1,) of all stages; that of `stage` does not matter.
        stage: 0-based.
    """
    k = len(table.confidence)
    leaves = table.confidence[:-1] > np.array(thresholds, np.float32)[:, None]
    left = exits_of(leaves[:stage])
    here = np.flatnonzero(left == stage)
    # The samples that get here, the surest first.
    here = here[np.argsort(-table.confidence[stage, here], kind="stable")]
    confidence = table.confidence[stage, here]
    cuts = np.flatnonzero(np.diff(confidence)) + 1  # how many of them leave; equals leave together
    exits = stage + 1 + exits_of(leaves[stage + 1 :, here])  # of those who go on

    gone = np.flatnonzero(left < stage)
    right = int(table.is_right[left[gone], gone].sum()) + _first(table.is_right[stage, here], cuts)
    right = right + _rest(table.is_right[exits, here], cuts)
    reached = np.empty((len(cuts), k), np.int64)
    for j in range(k):
        reached[:, j] = (left >= j).sum() if j <= stage else _rest(exits >= j, cuts)
    return Sweep(confidence[cuts], confidence[cuts - 1], right, reached)


def exits_of(leaves: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Find the first of (k, n) stages that each sample leaves at; k where it does not."""
    exits: NDArray[np.intp] = np.vstack([leaves, np.ones((1, leaves.shape[1]), np.bool_)]).argmax(axis=0)
    return exits


def _first(marks: NDArray[np.bool_], cuts: NDArray[np.intp]) -> NDArray[np.int64]:
    """How many of the first samples are marked, for every number of them."""
    return np.concatenate([[0], np.cumsum(marks)])[cuts]


def _rest(marks: NDArray[np.bool_], cuts: NDArray[np.intp]) -> NDArray[np.int64]:
    """How many of the others are."""
    rest: NDArray[np.int64] = marks.sum() - _first(marks, cuts)
    return rest
