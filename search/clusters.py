"""A population in overlapping clusters, so that each part of the front is approached by its own kind."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Objectives

_MAX_ROUNDS = 100  # k-means settles long before; this bounds it where rounding would make it swing


@dataclass(frozen=True)
class Clusters:
    """k clusters of a population of n.

    Attributes:
        members: (k, s) indices into the population.
        extreme: (k,) the objective for which a cluster is the extreme one, or -1.
        of: (n,) the cluster in which each solution mixes.
    """

    members: NDArray[np.intp]
    extreme: NDArray[np.intp]
    of: NDArray[np.intp]


def cluster(objectives: Objectives, k: int, rng: np.random.Generator) -> Clusters:
    """Split a population of n into k clusters of 2 n / k members each, by objectives.

    Source: Luong, La Poutre and Bosman, GECCO 2014.
    """
    n = len(objectives)
    low = objectives.min(axis=0)
    ranges = objectives.max(axis=0) - low
    scaled = (objectives - low) / np.where(ranges > 0, ranges, 1)
    means = k_means(scaled, scaled[leaders(scaled, k, rng)])
    distances = squared_distances(scaled, means)
    size = min(n, 2 * n // k)
    members = np.argsort(distances, axis=0, kind="stable")[:size].T.copy()
    extreme = extreme_clusters(objectives[members].mean(axis=1), rng)
    return Clusters(members, extreme, _assign(members, distances, rng))


def leaders(points: Objectives, k: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """(k,) points far from each other: the best of a random objective, then always the furthest from those.

    Source: greedy scattered subset selection, Bosman and Thierens.
    """
    chosen = np.empty(k, np.intp)
    chosen[0] = points[:, rng.integers(points.shape[1])].argmin()
    distance = squared_distances(points, points[chosen[:1]])[:, 0]
    for i in range(1, k):
        chosen[i] = distance.argmax()
        distance = np.minimum(distance, squared_distances(points, points[chosen[i : i + 1]])[:, 0])
    return chosen


def k_means(points: Objectives, means: Objectives) -> Objectives:
    """Move (k, o) means to the centres of the points nearest to them until nothing moves."""
    k = len(means)
    nearest = np.full(len(points), -1)
    for _ in range(_MAX_ROUNDS):
        before, nearest = nearest, squared_distances(points, means).argmin(axis=1)
        if np.array_equal(before, nearest):
            break
        counts = np.bincount(nearest, minlength=k)
        sums = np.stack([np.bincount(nearest, column, minlength=k) for column in points.T], axis=1)
        # A mean that nobody is nearest to stays where it is.
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], means)
    return means


def extreme_clusters(means: Objectives, rng: np.random.Generator) -> NDArray[np.intp]:
    """(k,) objective that each cluster is to push, or -1; each takes the best cluster that is still free."""
    extreme = np.full(len(means), -1)
    for objective in rng.permutation(means.shape[1])[: len(means)]:
        free = np.flatnonzero(extreme < 0)
        extreme[free[means[free, objective].argmin()]] = objective
    return extreme


def squared_distances(points: Objectives, means: Objectives) -> NDArray[np.float64]:
    """(n, k)."""
    total = np.zeros((len(points), len(means)))
    for column, mean in zip(points.T, means.T, strict=True):
        total += (column[:, None] - mean) ** 2
    return total


def _assign(
    members: NDArray[np.intp], distances: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """(n,) a random one of the clusters that hold a solution, else the nearest."""
    n, k = distances.shape
    holds = np.zeros((n, k), np.bool_)
    holds[members, np.arange(k)[:, None]] = True
    drawn = np.where(holds, rng.random((n, k)), -1.0)
    of: NDArray[np.intp] = np.where(holds.any(axis=1), drawn.argmax(axis=1), distances.argmin(axis=1))
    return of
