"""Tests on paired runs, by numbers that can be checked by hand."""

import numpy as np
import pytest

from encas.search.experiment.statistics import Paired, holm


def paired(*differences: float) -> Paired:
    return Paired(np.array(differences), np.zeros(len(differences)))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_if_every_pair_is_better_p_is_one_of_all_signs(n: int) -> None:
    assert paired(*range(1, n + 1)).p() == pytest.approx(0.5**n)
    assert paired(*range(1, n + 1)).effect() == 1


def test_the_least_rank_against_it_makes_two_of_eight_signs() -> None:
    assert paired(-1, 2, 3).p() == pytest.approx(2 / 8)
    assert paired(-1, 2, 3).effect() == pytest.approx((2 + 3 - 1) / 6)


def test_equal_runs_say_nothing() -> None:
    assert (paired(0, 0, 0).p(), paired(0, 0, 0).effect()) == (1, 0)


def test_a_test_is_one_sided() -> None:
    assert paired(-1, -2, -3).p() == 1
    assert paired(-1, -2, -3).effect() == -1


def test_holm_multiplies_by_how_many_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
