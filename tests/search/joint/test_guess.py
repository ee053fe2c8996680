"""Guessing cascades from guesses of their members."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from encas.search.joint.genome import JointSpace
from encas.search.joint.guess import JointGuess, Known
from encas.search.nat.population import Genes
from encas.search.nat.spaces import space_named

SPACE = JointSpace((space_named("tiny-alphanet"), space_named("tiny-mbv3-w1.0")), 10)


def evaluated(genes: Genes) -> Known:
    """Members err less, the more they cost; who is behind a high threshold counts more."""
    macs = SPACE.macs(genes)
    errors = 0.5 - 0.1 * np.log10(macs / 1e5)
    order = SPACE.order(genes)
    guard = np.take_along_axis(SPACE.thresholds(genes), order, axis=1)[:, 0] / 9
    first, second = (np.take_along_axis(macs, order, axis=1)[:, j] for j in range(2))
    own, other = (np.take_along_axis(errors, order, axis=1)[:, j] for j in range(2))
    return Known(genes, own * (1 - guard) + other * guard, first + guard * second, errors)


@pytest.mark.slow
def test_guesses_rank_new_cascades_nearly_as_they_are() -> None:
    rng = np.random.default_rng(0)
    guess = JointGuess.fit(SPACE, evaluated(SPACE.random(rng, 60)), rng, 40)
    new = evaluated(SPACE.random(rng, 60))
    guessed = guess(new.genes)
    assert kendalltau(guessed[:, 0], new.error).statistic > 0.6
    assert kendalltau(guessed[:, 1], new.macs).statistic > 0.6


@pytest.mark.slow
def test_no_guess_costs_less_than_the_first_member_or_more_than_all() -> None:
    rng = np.random.default_rng(1)
    guess = JointGuess.fit(SPACE, evaluated(SPACE.random(rng, 20)), rng, 10)
    new = SPACE.random(rng, 200)
    macs = SPACE.macs(new)
    first = np.take_along_axis(macs, SPACE.order(new)[:, :1], axis=1)[:, 0]
    assert (guess(new)[:, 1] >= first).all()
    assert (guess(new)[:, 1] <= macs.sum(axis=1)).all()
