import numpy as np
import pytest

from encas.cost import PerSample
from encas.search.greedy import MULTIPLIERS, Greedy, Outputs

# Four samples. The cheap member is right where it is surest; the dear one is right everywhere.
GAP = np.array([[0.2, 0.6, 1.2, 2.2], [1, 1, 1, 1]], np.float32)
RIGHT = np.array([[False, False, True, True], [True, True, True, True]])


def greedy(costs: list[float], **settings: int) -> Greedy:
    arguments = {"max_stages": 5, "budget": 1000} | settings
    outputs = Outputs.of(GAP, RIGHT)
    return Greedy(outputs, ["cheap", "dear"], PerSample(np.array(costs)), **arguments)


def test_a_cascade_by_hand() -> None:
    found = greedy([100, 1000]).run()
    # Reference dear, nothing may be lost: cheap answers the two samples above the gap 0.6 for 100 each, which
    # is more per cost than dear with four for 1000 (2/100 > 4/1000). Then dear takes the other two.
    best = found[1]
    assert str(best.cascade) == "cheap >1 dear"
    assert (best.right, best.reached[:2], best.error) == (4, (4, 2), 0)
    assert best.cost == 100 + 1000 / 2
    # Reference cheap: it is as accurate as itself on everything.
    assert str(found[0].cascade) == "cheap"
    assert found[0].error == 0.5


def test_where_the_dear_member_costs_little_more_it_goes_first() -> None:
    # 2/100 < 4/150
    assert str(greedy([100, 150]).run()[1].cascade) == "dear"


def test_one_stage_answers_everything() -> None:
    found = greedy([100, 1000], max_stages=1).run()
    assert {str(one.cascade) for one in found} == {"cheap", "dear"}


def test_there_is_a_cascade_for_every_reference_and_multiplier() -> None:
    whole = greedy([100, 1000])
    assert len(whole.run()) == 2 * len(MULTIPLIERS)
    # A member on its own takes 2 looks and 1 count, two stages take 2 + 1 looks and 1 count.
    assert whole.spent == 6 * (3 + 4)


@pytest.mark.parametrize(("budget", "n"), [(2, 0), (3, 1), (6, 1), (7, 2), (10, 3)])
def test_the_budget_ends_it(budget: int, n: int) -> None:
    cut = greedy([100, 1000], budget=budget)
    assert len(cut.run()) == n
    assert cut.spent <= budget


def test_where_no_member_will_do_the_last_stage_answers_the_rest() -> None:
    right = np.array([[False, True], [False, False]])
    outputs = Outputs.of(np.array([[0.5, 1.5], [0.5, 0.25]], np.float32), right)
    found = Greedy(outputs, ["a", "b"], PerSample(np.array([10.0, 20.0])), 5, 1000).run()
    # On the first sample everybody is wrong: an accuracy of 0 is never enough.
    assert {str(one.cascade) for one in found} == {"a"}
    assert found[0].error == 0.5


def test_members_that_cost_nothing_go_first() -> None:
    assert str(greedy([0, 1000]).run()[1].cascade) == "cheap >1 dear"
