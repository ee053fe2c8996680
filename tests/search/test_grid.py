import math

import numpy as np
import pytest

from encas.search.algorithm import Genomes
from encas.search.genome import NEVER, Space
from encas.search.grid import Grid


def asked(grid: Grid) -> Genomes:
    """Everything that a grid asks for; member i has error 1 / (i + 1) and cost i + 1."""
    rows = []
    while len(genomes := grid.ask()):
        rows.append(genomes)
        first = np.maximum(genomes[:, 0], 1).astype(float)
        grid.tell(np.column_stack([1 / first, first]))
    return np.concatenate(rows)


def sizes(genomes: Genomes) -> list[int]:
    counts = np.bincount((genomes[:, :3] > 0).sum(axis=1), minlength=4)
    return [int(count) for count in counts[1:]]


def test_with_budget_enough_it_is_every_combination() -> None:
    genomes = asked(Grid(Space(4, 3), np.arange(1.0, 5), 100_000))
    assert sizes(genomes) == [4, 6 * NEVER, 4 * NEVER**2]
    assert len(np.unique(genomes, axis=0)) == len(genomes)
    members = genomes[:, :3]
    assert ((members[:, 1:] == 0) | (members[:, 1:] > members[:, :-1])).all()  # of rising cost


def test_the_grid_gets_coarser_and_then_takes_fewer_members() -> None:
    for budget in (20, 500, 2_000, 5_000):
        genomes = asked(Grid(Space(6, 3), np.arange(1.0, 7), budget))
        assert len(genomes) <= budget
    coarse = asked(Grid(Space(6, 3), np.arange(1.0, 7), 3_000))
    assert sizes(coarse) == [6, 15 * NEVER, math.comb(6, 3) * 100]


def test_pairs_only_where_two_stages_are_allowed() -> None:
    genomes = asked(Grid(Space(4, 2), np.arange(1.0, 5), 100_000))
    assert len(genomes) == 4 + 6 * NEVER


def test_longer_cascades_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 3 stages"):
        Grid(Space(4, 4), np.arange(4.0), 100)
