"""Cascades of one network of every supernetwork, as genes."""

import numpy as np
import pytest

from encas.search.joint.genome import JointSpace
from encas.search.nat.population import Genes
from encas.search.nat.spaces import space_named

SPACE = JointSpace((space_named("tiny-alphanet"), space_named("tiny-mbv3-w1.0")), 10)


def with_order(positions: tuple[int, int], thresholds: tuple[int, int]) -> Genes:
    """The smallest networks in an order, with threshold genes."""
    row: Genes = SPACE.ends[0].copy()
    for at, position, threshold in zip(SPACE.columns, positions, thresholds, strict=True):
        row[at.stop], row[at.stop + 1] = position, threshold
    return row


def test_five_full_sized_supernetworks_have_132_genes() -> None:
    names = ("alphanet", "attentivenas", "ofa-mbv3-w1.0", "ofa-mbv3-w1.2", "ofa-proxyless-w1.3")
    assert len(JointSpace(tuple(map(space_named, names)), 10).bounds[0]) == 132
    assert len(JointSpace(tuple(map(space_named, (names[0], names[3]))), 10).bounds[0]) == 54


def test_members_run_by_falling_position_and_each_guards_the_next() -> None:
    first_second = SPACE.cascade(with_order((1, 0), (3, 9)), ("a", "b"))
    assert [(s.member, s.threshold) for s in first_second.stages] == [("a", 0.4), ("b", None)]
    second_first = SPACE.cascade(with_order((0, 1), (3, 9)), ("a", "b"))
    assert [(s.member, s.threshold) for s in second_first.stages] == [("b", 1.0), ("a", None)]


def test_of_equal_positions_the_first_supernetwork_runs_first() -> None:
    assert SPACE.cascade(with_order((0, 0), (0, 0)), ("a", "b")).member_names == ("a", "b")


def test_genes_that_mean_the_same_become_equal() -> None:
    rows = np.array([with_order((1, 0), (3, 9)), with_order((1, 1), (3, 2)), with_order((0, 0), (3, 5))])
    assert len(np.unique(SPACE.canonical(rows), axis=0)) == 1
    random = SPACE.random(np.random.default_rng(0), 20)
    assert np.array_equal(SPACE.canonical(random), random)


def test_macs_are_those_of_the_members() -> None:
    genes = SPACE.ends
    expected = [population.macs(population.ends) for population in SPACE.populations]
    assert SPACE.macs(genes).tolist() == np.column_stack(expected).tolist()


@pytest.mark.parametrize("row", [0, 1])
def test_the_ends_are_all_smallest_and_all_largest(row: int) -> None:
    members = SPACE.members(SPACE.ends[row])
    wanted = [".".join(map(str, population.ends[row])) for population in SPACE.populations]
    assert list(members) == wanted
