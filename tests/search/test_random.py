import numpy as np
import pytest

from encas.search.random import RandomSearch

from .problems import found_after, trap_inverse_trap, zeromax_onemax


def test_random_search_covers_every_value_evenly() -> None:
    n_values = np.array([2, 5])
    algorithm = RandomSearch(n_values, np.random.default_rng(0))
    batches = []
    for _ in range(10):
        batches.append(algorithm.ask())
        algorithm.tell(np.zeros((len(batches[-1]), 2)))
    genomes = np.concatenate(batches)
    assert len(np.unique(genomes[:1024], axis=0)) == 10
    counts = np.bincount(genomes[:, 0] * 5 + genomes[:, 1])
    assert counts.min() > 0.85 * len(genomes) / 10
    assert not np.array_equal(batches[0], batches[1])


@pytest.mark.slow
def test_chance_alone_does_not_find_these_fronts() -> None:
    for problem in (zeromax_onemax(50), trap_inverse_trap(5)):
        algorithm = RandomSearch(np.full(problem.n_genes, 2), np.random.default_rng(0))
        assert found_after(algorithm, problem, 20_000) is None
