from functools import partial
from pathlib import Path

import numpy as np
import pytest

import encas.search
from encas.errors import InvalidInput
from encas.evaluation import evaluate
from encas.front import Front
from encas.pool import Pool
from encas.search.algorithms import AlgorithmName
from encas.search.evaluate import Evaluator
from encas.search.refine import SWEEP, Refiner

search = partial(encas.search.search, report_fraction=0)


def points(front: Front) -> list[tuple[float, float]]:
    return [(candidate.error, candidate.cost) for candidate in front.candidates]


def test_no_point_gets_worse_and_some_get_better(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    # The same search as the refined one, which leaves a quarter to the sweeps.
    before = points(search(pool, evaluations=3000, refine_thresholds=False))
    after = points(search(pool, evaluations=4000, refine_thresholds=True))
    for error, cost in before:
        assert any(e <= error + 1e-12 and c <= cost + 1e-6 for e, c in after)
    better = [p for p in before if any(e < p[0] - 1e-9 and c < p[1] - 1e-6 for e, c in after)]
    assert len(better) >= 3


@pytest.mark.slow
def test_what_the_front_says_is_what_the_cascades_do(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    front = search(pool, evaluations=4000, refine_thresholds=True)
    off_grid = 0
    for candidate in front.candidates:
        found = evaluate(candidate.cascade, pool, "val")
        assert candidate.cascade.evaluated == {"val": found}
        assert candidate.error == pytest.approx(1 - found.accuracy, abs=1e-12)
        assert candidate.cost == pytest.approx(found.macs)
        thresholds = np.array([stage.threshold for stage in candidate.cascade.stages[:-1]])
        off_grid += bool((np.abs(thresholds * 50 - np.round(thresholds * 50)) > 1e-9).any())
    assert off_grid > len(front.candidates) / 4


@pytest.mark.slow
def test_sweeps_count_as_the_evaluations_they_stand_for(pool_path: Path) -> None:
    for budget in (60, 500, 4000):
        counts = search(Pool.open(pool_path), evaluations=budget, refine_thresholds=True).file.evaluations
        assert counts["genotypes"] + SWEEP * counts["sweeps"] <= budget
        assert counts["sweeps"] >= budget // 4 // SWEEP


def test_it_is_on_for_mo_gomea_and_off_for_what_it_is_compared_with(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    assert search(pool, evaluations=400).file.settings["refine_thresholds"] is True
    assert search(pool, evaluations=400, algorithm="random").file.settings["refine_thresholds"] is False
    assert search(pool, evaluations=400, algorithm="random", refine_thresholds=True).file.evaluations[
        "sweeps"
    ]


@pytest.mark.parametrize("name", ["greedy", "ensemble"])
def test_thresholds_that_are_not_searched_are_not_refined(pool_path: Path, name: AlgorithmName) -> None:
    with pytest.raises(InvalidInput, match=f"algorithm '{name}': its thresholds cannot be refined"):
        search(Pool.open(pool_path), algorithm=name, refine_thresholds=True)


@pytest.mark.slow
def test_it_ends_when_nothing_is_left_to_sweep(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    evaluator = Evaluator.open(pool, "val", members, costs, max_stages=2)
    told: list[int] = []
    refiner = Refiner(evaluator, pool.names, 10_000, progress=lambda n, _: told.append(n))
    front = refiner.refine([])
    # All pairs of eight members, answering in both ways, once each; of two stages only one has a threshold.
    assert refiner.sweeps == 8 * 7 / 2 * 2
    assert sum(told) == refiner.sweeps * SWEEP
    assert {found.cascade.combine for found in front} <= {"mean", "last"}
    again = Refiner(evaluator, pool.names, 10_000, workers=3)
    assert again.refine([]) == front
