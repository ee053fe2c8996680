from functools import cache

import numpy as np
import pytest

from encas.interval import predict


@pytest.mark.slow
def test_the_interval_of_what_is_counted_holds_what_others_show() -> None:
    rng = np.random.default_rng(1)
    n, new_n = 300, 500
    held, known = 0, cache(lambda right: predict(right / n, n, new_n))
    for share in np.repeat([0.6, 0.9, 0.99], 200):
        interval = known(rng.binomial(n, share))
        held += interval.low <= rng.binomial(new_n, share) / new_n <= interval.high
    # Two standard errors of 600 tries around the 95 % that are stated.
    assert held / 600 == pytest.approx(0.95, abs=0.018)


def test_it_agrees_with_the_beta_binomial_distribution() -> None:
    stats = pytest.importorskip("scipy.stats")
    interval = predict(0.93, 1500, 5000)
    exact = stats.betabinom(5000, 1395.5, 105.5)
    assert interval.low == pytest.approx(exact.ppf(0.025) / 5000, abs=5e-4)
    assert interval.high == pytest.approx(exact.ppf(0.975) / 5000, abs=5e-4)
    assert (interval.confidence, interval.n) == (0.95, 5000)


def test_the_same_counts_give_the_same_interval() -> None:
    assert predict(0.5, 100, 100) == predict(0.5, 100, 100)


def test_all_right_so_far_does_not_mean_that_nothing_can_go_wrong() -> None:
    interval = predict(1.0, 100, 1000)
    assert interval.low < 0.99
    assert interval.high == 1


def test_more_new_samples_leave_less_to_chance() -> None:
    few, many = predict(0.8, 1000, 100), predict(0.8, 1000, 100_000)
    assert few.low < many.low < 0.8 < many.high < few.high
