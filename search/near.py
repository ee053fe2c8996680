"""What lies near: the values of a gene that has an order, and points of the objective space."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives

FAR = 3.0  # standard deviation of a move, in places of the gene's alphabet


@dataclass(frozen=True)
class Alphabets:
    """In which order the values of each gene stand, neighbours being alike.

    v is the size of the largest alphabet.
    """

    n_values: NDArray[np.intp]  # (g,)
    values: NDArray[np.intp]  # (g, v) by place
    places: NDArray[np.intp]  # (g, v) by value

    @classmethod
    def of(cls, n_values: NDArray[np.intp], rows: Sequence[NDArray[np.intp]]) -> "Alphabets":
        """Take a row of values for each gene."""
        values, places = np.zeros((2, len(n_values), n_values.max()), np.intp)
        for gene, row in enumerate(rows):
            if not np.array_equal(np.sort(row), np.arange(n_values[gene])):
                raise ValueError(f"alphabet of gene {gene}: must hold each of 0 .. {n_values[gene] - 1} once")
            values[gene, : len(row)], places[gene, : len(row)] = row, np.argsort(row)
        return cls(n_values, values, places)

    def moved(self, genomes: Genomes, genes: NDArray[np.intp], by: NDArray[np.float64]) -> Genomes:
        """Move one gene of each of n genomes by some places, at least by one; the ends throw back."""
        rows, moved = np.arange(len(genomes)), genomes.copy()
        last = self.n_values[genes] - 1
        away = np.copysign(np.ceil(np.abs(by)), by).astype(np.intp)
        here = self.places[genes, genomes[rows, genes]]
        there = np.abs(here + away)
        there = np.clip(np.where(there > last, 2 * last - there, there), 0, last)
        # Of two values the other one.
        moved[rows, genes] = self.values[genes, np.where(last == 1, 1 - here, there)]
        return moved


@nb.njit(cache=True)
def nearest(points: Objectives, others: Objectives, count: int) -> NDArray[np.intp]:
    """(n, min(count, a)) which of the (a, o) others are nearest to each of (n, o) points, the nearest first.

    Objectives are scaled by the ranges of the others.
    """
    n_others, n_objectives = others.shape
    count = min(count, n_others)
    scale = np.ones(n_objectives)
    for j in range(n_objectives):
        span = others[:, j].max() - others[:, j].min()
        if span > 0:
            scale[j] = 1 / span
    found = np.empty((len(points), count), np.intp)
    distances = np.empty(count)
    for i in range(len(points)):
        distances[:] = np.inf
        for a in range(n_others):
            distance = 0.0
            for j in range(n_objectives):
                distance += ((points[i, j] - others[a, j]) * scale[j]) ** 2
            if distance >= distances[count - 1]:
                continue
            place = count - 1
            while place > 0 and distances[place - 1] > distance:
                distances[place] = distances[place - 1]
                found[i, place] = found[i, place - 1]
                place -= 1
            distances[place] = distance
            found[i, place] = a
    return found
