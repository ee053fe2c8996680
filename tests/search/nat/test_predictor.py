"""Guessing errors from architectures that are known."""

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator
from scipy.stats import kendalltau

from encas.search.nat.predictor import Predictor, _Member


def known(n: int, g: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    genes = rng.integers(0, 10, (n, g))
    return genes, 0.4 - genes.mean(axis=1) / 30 + 0.02 * np.sin(genes[:, 0] * genes[:, 1])


def test_a_member_is_scipys_cubic_interpolation() -> None:
    genes, errors = known(60, 6)
    member = _Member.fit(np.arange(6), genes, errors)
    new, _ = known(40, 6, seed=1)
    expected = RBFInterpolator(genes, errors, kernel="cubic", degree=1)(new)
    assert np.abs(member.predict(new.astype(np.float32)) - expected).max() < 1e-4


def test_known_architectures_rank_nearly_as_they_are() -> None:
    genes, errors = known(100, 10)
    predictor = Predictor.fit(genes, errors, np.random.default_rng(0), 100)
    assert kendalltau(predictor.predict(genes), errors).statistic > 0.9
    new, true = known(300, 10, seed=2)
    assert kendalltau(predictor.predict(new), true).statistic > 0.6


def test_the_same_seed_guesses_the_same() -> None:
    genes, errors = known(50, 8)
    guesses = [Predictor.fit(genes, errors, np.random.default_rng(7), 30).predict(genes) for _ in range(2)]
    assert guesses[0].tobytes() == guesses[1].tobytes()


def test_genes_that_never_change_and_architectures_that_are_twice_there_do_no_harm() -> None:
    genes, errors = known(30, 6)
    genes[:, 2] = 4
    genes, errors = np.vstack([genes, genes[:5]]), np.concatenate([errors, errors[:5] + 0.1])
    guesses = Predictor.fit(genes, errors, np.random.default_rng(0), 50).predict(genes)
    assert np.isfinite(guesses).all()
    assert guesses.min() > 0 and guesses.max() < 0.7


def test_two_architectures_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 3 different architectures"):
        Predictor.fit(np.array([[0, 1], [1, 1], [0, 1]]), np.zeros(3), np.random.default_rng(0))


def test_genes_of_another_length_are_refused() -> None:
    genes, errors = known(20, 5)
    predictor = Predictor.fit(genes, errors, np.random.default_rng(0), 5)
    with pytest.raises(ValueError, match=r"genes must be \(p, 5\), are \(3, 4\)"):
        predictor.predict(np.zeros((3, 4), int))
