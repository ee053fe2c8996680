"""What results are compared by."""

import numpy as np
import pytest

from encas.search.experiment.results import Reference, Result

moocore = pytest.importorskip("moocore")

POINTS = np.array([[0.3, 10.0], [0.2, 100.0]])


def test_hypervolume_is_the_share_of_the_rectangle() -> None:
    # (0.4 - 0.3) * (1000 - 10) + (0.3 - 0.2) * (1000 - 100) of 0.4 * 1000
    assert Reference("paper", 0.4, 1000).volume(POINTS) == pytest.approx((99 + 90) / 400)


def test_hypervolume_is_that_of_moocore() -> None:
    points = np.random.default_rng(0).uniform(0, [0.4, 1000], (50, 2))
    expected = moocore.hypervolume(points, ref=[0.4, 1000]) / 400
    assert Reference("paper", 0.4, 1000).volume(points) == pytest.approx(expected)


def test_by_its_logarithm_each_power_of_ten_counts_the_same() -> None:
    # From 1 to 1000: 10 is a third of the way, 100 two.
    reference = Reference("own", 1, 1000, least_macs=1)
    assert reference.volume(POINTS) == pytest.approx(0.7 * 2 / 3 + 0.1 * 1 / 3)


def test_the_most_accurate_on_test_is_chosen_on_val() -> None:
    result = Result(
        part="a",
        run=0,
        seed=0,
        points={"val": ((0.3, 1), (0.2, 2)), "test": ((0.1, 1), (0.25, 2))},
        most_macs=2,
        least_macs=1,
        seconds=0,
    )
    assert result.most_accurate("test") == 0.75
