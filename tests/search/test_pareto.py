import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encas.search.pareto import hypervolume, non_dominated

points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30)


def test_the_front_goes_by_rising_cost_and_falling_error() -> None:
    objectives = np.array([[0.1, 9.0], [0.5, 1.0], [0.3, 4.0], [0.4, 4.0], [0.1, 9.0], [0.3, 5.0]])
    assert non_dominated(objectives).tolist() == [1, 2, 0]


def test_nothing_has_an_empty_front() -> None:
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert hypervolume(np.empty((0, 2)), (1, 1)) == 0


@pytest.mark.slow
@settings(max_examples=100)
@given(points)
def test_the_front_is_what_no_other_point_dominates(found: list[tuple[int, int]]) -> None:
    objectives = np.array(found, float)
    expected = {
        (a, b) for a, b in found if not any((c <= a and d <= b) and (c < a or d < b) for c, d in found)
    }
    rows = non_dominated(objectives)
    assert sorted(map(tuple, objectives[rows].tolist())) == sorted(expected)


def test_hypervolume_is_the_share_of_the_rectangle_that_is_dominated() -> None:
    # (0.5, 2) of (1, 4): a quarter; (0.25, 3) adds 0.25 * 1 / 4.
    assert hypervolume(np.array([[0.5, 2.0]]), (1, 4)) == 0.25
    assert hypervolume(np.array([[0.5, 2.0], [0.25, 3.0]]), (1, 4)) == 0.3125
    assert hypervolume(np.array([[0.5, 2.0], [0.25, 3.0], [0.75, 3.5]]), (1, 4)) == 0.3125


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume(np.array([[1.0, 0.0], [0.0, 4.0], [2.0, 9.0]]), (1, 4)) == 0


@settings(max_examples=50)
@given(points)
def test_hypervolume_agrees_with_moocore(found: list[tuple[int, int]]) -> None:
    moocore = pytest.importorskip("moocore")
    objectives = np.array(found, float)
    expected = moocore.hypervolume(objectives, ref=np.array([7.0, 8.0])) / 56
    assert hypervolume(objectives, (7, 8)) == pytest.approx(expected)
