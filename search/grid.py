"""Grids of cascades of two and three stages: every combination of members, and of thresholds.

Sources: Lebovitz et al., "Efficient Inference With Model Cascades", TMLR 2023 (the latest stage answers);
Wang et al., "Wisdom of Committees", ICLR 2022 (all stages so far answer together). How fine the grid is
within a budget, and which members it takes where there are too many, is told here and not there.
"""

import math
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives
from encas.search.genome import NEVER, Space
from encas.search.pareto import ranked

MOST_STAGES = 3
_STEPS = (1, 2, 5)  # of threshold genes between two values of a grid of three stages: 0.02, 0.04, 0.10
BATCH = 4096


class Grid:
    """Members alone, then pairs, then triples of rising cost, then none; an `Algorithm`.

    Pairs get all thresholds, and at most half of what the members alone leave of the budget. Triples get the
    finest grid for which the budget allows all of them, or the coarsest. Where even that is too much, the
    members on the front of single members are taken, then those on the front of the others, and so on.

    Args:
        space: Of three stages at most.
        costs: (m,) of the members: a cheaper one runs earlier.
        budget: How many genomes may be asked for.
    """

    def __init__(self, space: Space, costs: NDArray[np.float64], budget: int) -> None:
        if space.ensemble or space.max_stages > MOST_STAGES:
            raise ValueError(f"a grid is of cascades of at most {MOST_STAGES} stages, got {space}")
        self._space = space
        self._costs = costs
        self._budget = budget
        self._rest: Iterator[Genomes] | None = None
        self._asked = self._genomes(np.arange(space.n_members)[:, None], [()])[:budget]

    def ask(self) -> Genomes:
        """(p, g) genomes; none when all were told."""
        return self._asked

    def tell(self, objectives: Objectives) -> None:
        """Choose members by what they do alone; nothing else is learned."""
        if self._rest is None:
            self._rest = self._combined(ranked(objectives))
        self._asked = next(self._rest, np.empty((0, self._space.n_genes), np.intp))

    def _combined(self, members: NDArray[np.intp]) -> Iterator[Genomes]:
        """All pairs, then all triples that the budget allows, the better members first."""
        left = self._budget - self._space.n_members
        if self._space.max_stages >= 2 and left > 0:
            n = most_members(len(members), 2, left // 2 // NEVER)
            left -= math.comb(n, 2) * NEVER
            yield from self._batches(members[:n], 2, 1)
        if self._space.max_stages >= 3 and left > 0:
            step = next((s for s in _STEPS if _n_triples(len(members), s) <= left), _STEPS[-1])
            n = most_members(len(members), 3, left // (NEVER // step) ** 2)
            yield from self._batches(members[:n], 3, step)

    def _batches(self, members: NDArray[np.intp], size: int, step: int) -> Iterator[Genomes]:
        rising = members[np.lexsort((members, self._costs[members]))].tolist()
        guards = list(product(range(step, NEVER + 1, step), repeat=size - 1))
        teams = np.array(list(combinations(rising, size)), np.intp).reshape(-1, size)
        at_once = max(1, BATCH // len(guards))
        for start in range(0, len(teams), at_once):
            yield self._genomes(teams[start : start + at_once], guards)

    def _genomes(self, teams: NDArray[np.intp], guards: list[tuple[int, ...]]) -> Genomes:
        """(t * q, g) every team of members with each of q settings of the thresholds between them."""
        size, q = teams.shape[1], len(guards)
        genomes = np.zeros((len(teams) * q, self._space.n_genes), np.intp)
        genomes[:, :size] = np.repeat(teams + 1, q, axis=0)
        thresholds = np.array(guards, np.intp).reshape(q, size - 1)
        first = self._space.max_stages
        genomes[:, first : first + size - 1] = np.tile(thresholds, (len(teams), 1))
        return genomes


def most_members(m: int, size: int, allowed: int) -> int:
    """How many of m members can be combined without more than so many teams."""
    while m >= size and math.comb(m, size) > allowed:
        m -= 1
    return m


def _n_triples(m: int, step: int) -> int:
    return math.comb(m, 3) * (NEVER // step) ** 2
