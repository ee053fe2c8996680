"""The search on predictions, and the choice of what to evaluate."""

import numpy as np
import pytest
from numpy.typing import NDArray

from encas.search.nat.candidates import choose, search_gomea, search_nsga3
from encas.search.pareto import hypervolume

LOW, HIGH = np.zeros(6, np.int64), np.full(6, 4, np.int64)


def guess(genes: NDArray[np.int64]) -> NDArray[np.float64]:
    """More of everything is better and dearer; the best trade-offs fill genes from the front."""
    worth = np.array([6, 5, 4, 3, 2, 1])
    return np.column_stack([1 - (genes * worth).sum(1) / 84, genes.sum(1).astype(float)])


def canonical(genes: NDArray[np.int64]) -> NDArray[np.int64]:
    return genes


def found(name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    known = np.random.default_rng(0).integers(0, 5, (20, 6))
    if name == "nsga3":
        return search_nsga3(guess, known, LOW, HIGH, evaluations=3000, seed=1, canonical=canonical)
    return search_gomea(guess, LOW, HIGH, evaluations=3000, seed=1, canonical=canonical)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nsga3", "gomea"])
def test_the_trade_offs_of_a_small_problem_are_found(name: str) -> None:
    genes, objectives = found(name)
    assert (genes >= LOW).all() and (genes <= HIGH).all()
    assert np.array_equal(guess(genes), objectives)
    # The best with n units fills the first genes; its share of all worth is known.
    worth = np.repeat([6, 5, 4, 3, 2, 1], 4)
    front = np.column_stack([1 - np.concatenate([[0], worth.cumsum()]) / 84, np.arange(25.0)])
    reference = (1.01, 25.0)
    assert hypervolume(objectives, reference) >= 0.98 * hypervolume(front, reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nsga3", "gomea"])
def test_the_same_seed_finds_the_same(name: str) -> None:
    assert [part.tobytes() for part in found(name)] == [part.tobytes() for part in found(name)]


def test_the_chosen_lie_along_the_whole_front_and_none_is_there_twice() -> None:
    genes, objectives = found("gomea")
    twice, both = np.vstack([genes, genes]), np.vstack([objectives, objectives])
    rows = choose(twice, both, 7, seed=0)
    assert len(rows) == 7 == len(np.unique(twice[rows], axis=0))
    assert both[rows, 1].min() == 0 and both[rows, 1].max() == 24
    assert np.diff(np.sort(both[rows, 1])).max() <= 10
    assert choose(genes[:3], objectives[:3], 7, seed=0).tolist() == [0, 1, 2]
