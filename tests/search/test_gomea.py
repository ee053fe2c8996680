import numpy as np
import pytest
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives
from encas.search.gomea import MoGomea, forcing_accepts, mixing_accepts

from .problems import (
    KnownProblem,
    found_after,
    leading_ones_trailing_zeros,
    trap_inverse_trap,
    zeromax_onemax,
)


def mo_gomea(problem: KnownProblem, seed: int) -> MoGomea:
    return MoGomea(np.full(problem.n_genes, 2), 2, np.random.default_rng(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("problem", "at_most"),
    [
        (zeromax_onemax(50), 10_000),
        (trap_inverse_trap(5), 10_000),
        (leading_ones_trailing_zeros(15), 10_000),
    ],
    ids=["zeromax-onemax", "trap5-inverse-trap5", "leading-ones-trailing-zeros"],
)
def test_the_whole_front_is_found_within(problem: KnownProblem, at_most: int, seed: int) -> None:
    algorithm = mo_gomea(problem, seed)
    assert found_after(algorithm, problem, at_most) is not None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("problem", "at_most"),
    [
        (zeromax_onemax(100), 30_000),
        (trap_inverse_trap(10), 40_000),
        (trap_inverse_trap(20), 250_000),
        (leading_ones_trailing_zeros(25), 200_000),
    ],
    ids=["zeromax-onemax-100", "trap5-50", "trap5-100", "leading-ones-trailing-zeros-25"],
)
def test_the_whole_front_of_larger_problems_is_found_within(
    problem: KnownProblem, at_most: int, seed: int
) -> None:
    assert found_after(mo_gomea(problem, seed), problem, at_most) is not None


def test_the_archive_is_the_front() -> None:
    problem = trap_inverse_trap(3)
    algorithm = mo_gomea(problem, 1)
    assert found_after(algorithm, problem, 10_000) is not None
    algorithm.tell(problem.objectives(algorithm.ask()))
    found = sorted((int(-a), int(-b)) for a, b in algorithm.archive.objectives)
    assert found == problem.front
    assert (problem.objectives(algorithm.archive.genomes) == algorithm.archive.objectives).all()


def test_populations_double_and_live_half_as_often() -> None:
    problem = leading_ones_trailing_zeros(10)
    algorithm = mo_gomea(problem, 0)
    while len(algorithm.populations) < 4:
        algorithm.tell(problem.objectives(algorithm.ask()))
    populations = algorithm.populations
    assert [len(population.genomes) for population in populations] == [8, 16, 32, 64]
    assert [population.n_clusters for population in populations] == [3, 4, 5, 6]
    # Population p came into being when population p - 1 had lived two generations, and so on down.
    assert [population.generations for population in populations] == [8, 4, 2, 1]


def asked(algorithm: MoGomea, problem: KnownProblem, turns: int) -> list[Genomes]:
    batches = []
    for _ in range(turns):
        batches.append(algorithm.ask().copy())
        algorithm.tell(problem.objectives(batches[-1]))
    return batches


def test_the_same_seed_asks_for_the_same_genomes() -> None:
    problem = trap_inverse_trap(4)
    one, same, other = (asked(mo_gomea(problem, seed), problem, 60) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_genes_stay_within_their_alphabets_and_use_them() -> None:
    n_values = np.array([1, 2, 7, 30])
    rng = np.random.default_rng(0)
    algorithm = MoGomea(n_values, 2, rng)
    seen = []
    for _ in range(200):
        seen.append(algorithm.ask())
        algorithm.tell(np.column_stack([seen[-1].sum(axis=1), -seen[-1].sum(axis=1)]).astype(float))
    genomes = np.concatenate(seen)
    assert (genomes.min(axis=0) == 0).all()
    assert (genomes.max(axis=0) == n_values - 1).all()


def test_only_canonical_genomes_are_asked_for() -> None:
    def descending(genomes: Genomes) -> Genomes:
        return -np.sort(-genomes, axis=1)

    algorithm = MoGomea(np.full(6, 9), 2, np.random.default_rng(0), canonical=descending)
    for _ in range(100):
        genomes = algorithm.ask()
        assert (np.diff(genomes, axis=1) <= 0).all()
        algorithm.tell(np.column_stack([genomes[:, 0], -genomes.sum(axis=1)]).astype(float))


def test_seeds_are_asked_for_first_and_the_best_of_them_start() -> None:
    seeds = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    algorithm = MoGomea(np.full(4, 2), 1, np.random.default_rng(0), seeds=seeds)
    assert (algorithm.ask() == seeds).all()
    algorithm.tell(-seeds.sum(axis=1, keepdims=True).astype(float))
    assert len(algorithm.ask()) == 8
    assert algorithm.ask()[0].tolist() == [1, 1, 1, 1]


def test_one_objective_and_three_objectives_work() -> None:
    for n_objectives in (1, 3):
        algorithm = MoGomea(np.full(8, 3), n_objectives, np.random.default_rng(0))
        for _ in range(50):
            genomes = algorithm.ask()
            algorithm.tell(np.column_stack([genomes[:, j] for j in range(n_objectives)]).astype(float))
        assert algorithm.archive.objectives.tolist() == [[0] * n_objectives]


def test_one_gene_is_enough() -> None:
    algorithm = MoGomea(np.array([40]), 2, np.random.default_rng(0))
    values: set[int] = set()
    for _ in range(60):
        genomes = algorithm.ask()
        values |= set(genomes.ravel().tolist())
        algorithm.tell(np.column_stack([genomes, -genomes]).astype(float))
    assert len(values) == len(algorithm.archive) > 30


@pytest.mark.parametrize("n_values", [[], [3, 0], [[2, 2]]])
def test_alphabets_must_be_a_row_of_positive_numbers(n_values: list[int]) -> None:
    with pytest.raises(ValueError, match="n_values must be a row"):
        MoGomea(np.array(n_values), 2, np.random.default_rng(0))


def test_there_must_be_an_objective() -> None:
    with pytest.raises(ValueError, match="n_objectives must be at least 1"):
        MoGomea(np.array([2]), 0, np.random.default_rng(0))


def test_objectives_that_do_not_fit_what_was_asked_are_refused() -> None:
    algorithm = MoGomea(np.full(4, 2), 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"shape \(8, 2\), got \(7, 2\)"):
        algorithm.tell(np.zeros((7, 2)))
    with pytest.raises(ValueError, match="finite"):
        algorithm.tell(np.full((8, 2), np.nan))
    algorithm.tell(np.zeros((8, 2)))


# --- genes whose values have an order ---


def test_single_genes_move_to_values_that_are_close_by() -> None:
    # Even values stand before odd ones; the front is all of them.
    order = np.array([0, 2, 4, 6, 8, 1, 3, 5, 7, 9])
    places = np.argsort(order)
    algorithm = MoGomea(np.array([10]), 2, np.random.default_rng(0), alphabets=[order])
    for _ in range(60):
        place = places[algorithm.ask()]
        algorithm.tell(np.hstack([place, -place]).astype(float))
    assert len(algorithm.archive) == 10


def test_ordered_alphabets_bring_more_of_a_front_of_small_steps() -> None:
    # The front is all genomes of equal genes; each gene has 60 values.
    def found(alphabets: list[NDArray[np.intp]] | None) -> int:
        algorithm, n = MoGomea(np.full(5, 60), 2, np.random.default_rng(1), alphabets=alphabets), 0
        while n < 4000:
            genomes = algorithm.ask()
            n += len(genomes)
            spread = np.ptp(genomes, axis=1)
            objectives = np.column_stack([genomes[:, 0] + 20 * spread, 59 - genomes[:, 0] + 20 * spread])
            algorithm.tell(objectives.astype(float))
        return int((np.ptp(algorithm.archive.genomes, axis=1) == 0).sum())

    assert found([np.arange(60)] * 5) > 2 * found(None)


def test_half_of_the_evaluations_are_of_children_of_the_archive() -> None:
    algorithm = MoGomea(np.array([50, 50]), 2, np.random.default_rng(0), alphabets=[np.arange(50)] * 2)
    asked = []
    for _ in range(3):
        asked.append(len(algorithm.ask()))
        genomes = algorithm.ask()
        algorithm.tell(np.column_stack([genomes[:, 0], 49 - genomes[:, 0] + genomes[:, 1]]).astype(float))
    # The first population, then as many pairs of parents; what is one of its parents is not asked for.
    assert asked[0] == 8
    assert 4 <= asked[1] <= 8
    assert len(algorithm.populations) == 1


# --- acceptance, by hand: before is (2, 2) everywhere ---

NORMAL, FIRST = -1, 0


def floats(*rows: list[float]) -> Objectives:
    return np.array(rows, float)


def test_a_mixing_step_stays_if_it_is_nowhere_worse_or_the_archive_does_not_dominate_it() -> None:
    now = floats([2, 2], [1, 2], [1, 3], [1, 3], [3, 3])
    not_dominated = np.array([False, False, False, True, False])
    before, extreme = np.full((5, 2), 2.0), np.full(5, NORMAL)
    assert mixing_accepts(before, now, extreme, not_dominated, 0).tolist() == [True, True, False, True, False]


def test_in_an_extreme_cluster_only_its_objective_counts() -> None:
    now = floats([2, 9], [1, 9], [3, 0])
    before, extreme = np.full((3, 2), 2.0), np.full(3, FIRST)
    none, every = np.zeros(3, bool), np.ones(3, bool)
    assert mixing_accepts(before, now, extreme, every, 0).tolist() == [True, True, False]
    assert forcing_accepts(before, now, extreme, none, 0).tolist() == [False, True, False]
    assert forcing_accepts(before, now, extreme, every, 0).tolist() == [False, True, False]


def test_a_forced_step_stays_if_it_dominates_or_is_new_to_the_front() -> None:
    now = floats([2, 2], [1, 2], [1, 3], [1, 3])
    new = np.array([False, False, False, True])
    before, extreme = np.full((4, 2), 2.0), np.full(4, NORMAL)
    assert forcing_accepts(before, now, extreme, new, 0).tolist() == [False, True, False, True]


def test_a_difference_within_the_tolerance_is_none() -> None:
    before, now = floats([2, 2], [2, 2]), floats([2.1, 1.9], [2.1, 1.5])
    extreme, no = np.array([NORMAL, NORMAL]), np.zeros(2, bool)
    assert mixing_accepts(before, now, extreme, no, 0.2).tolist() == [True, True]
    assert forcing_accepts(before, now, extreme, no, 0.2).tolist() == [False, True]
