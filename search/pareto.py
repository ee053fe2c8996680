"""Two objectives, both minimised: what is not dominated, and how much of the plane it dominates."""

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Objectives


def non_dominated(objectives: Objectives) -> NDArray[np.intp]:
    """Rows of (p, 2) objectives that no other row dominates, by falling first and rising second objective.

    Of equal rows the first stays.
    """
    order = np.lexsort((objectives[:, 0], objectives[:, 1]))
    first = objectives[order, 0]
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], first]))[:-1]
    rows: NDArray[np.intp] = order[first < best_before]
    return rows


def hypervolume(objectives: Objectives, reference: tuple[float, float]) -> float:
    """Share of the rectangle from (0, 0) to `reference` that (p, 2) objectives dominate, in [0, 1]."""
    objectives = objectives[(objectives < reference).all(axis=1)]
    first, second = objectives[non_dominated(objectives)].T
    # By rising second objective: each point adds the strip up to the next one's.
    width = np.diff(second, append=reference[1])
    return float(((reference[0] - first) * width).sum() / (reference[0] * reference[1]))


def ranked(objectives: Objectives) -> NDArray[np.intp]:
    """Order (p, 2) rows: those that none dominates, then those that none of the rest dominates, and so on.

    Each of these fronts is ordered so that its first rows, however many, are spread over all of it.
    """
    left, rows = np.arange(len(objectives)), np.empty(0, np.intp)
    while len(left):
        front = left[non_dominated(objectives[left])]
        rows, left = np.concatenate([rows, front[_spread(len(front))]]), np.setdiff1d(left, front)
    return rows


def _spread(n: int) -> NDArray[np.intp]:
    """Order 0 .. n - 1: the ends, the middle, the middles of the halves, and so on."""
    parts = [np.linspace(0, n - 1, 2**i + 1).round().astype(np.intp) for i in range(n.bit_length() + 1)]
    places, first = np.unique(np.concatenate(parts), return_index=True)
    return places[np.argsort(first)]
