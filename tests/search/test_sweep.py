from pathlib import Path

import numpy as np
import pytest

from encas.cascade import Cascade, Combine, Stage
from encas.evaluation import evaluate
from encas.pool import Member, Pool
from encas.search.evaluate import Evaluator
from encas.search.sweep import Table, exits_of, sweep

# Two stages, four samples: the first stage is right where it is sure.
TABLE = Table(
    np.array([[0.9, 0.8, 0.8, 0.5], [0.9, 0.9, 0.9, 0.9]], np.float32),
    np.array([[True, True, False, False], [True, False, True, True]]),
)


def open_evaluator(pool: Pool, max_stages: int = 3) -> Evaluator:
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    return Evaluator.open(pool, "val", members, costs, max_stages=max_stages)


def test_a_sweep_by_hand() -> None:
    found = sweep(TABLE, [0.0], 0)
    # One leaves (0.9), or three (both 0.8 together); then one must stay, so there is no third threshold.
    assert [found.threshold(row) for row in range(2)] == [0.8, 0.7]
    assert found.reached.tolist() == [[4, 3], [4, 1]]
    assert found.right.tolist() == [1 + 0 + 1 + 1, 2 + 1]


def test_where_all_are_equally_sure_there_is_no_threshold() -> None:
    table = Table(np.full((2, 5), 0.5, np.float32), np.ones((2, 5), np.bool_))
    assert len(sweep(table, [0.3], 0).right) == 0


def test_who_leaves_nowhere_leaves_at_the_end() -> None:
    leaves = np.array([[True, False, False], [True, True, False]])
    assert exits_of(leaves).tolist() == [0, 1, 2]
    assert exits_of(leaves[:0]).tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mean", "last"])
@pytest.mark.parametrize("stage", [0, 1])
def test_every_threshold_does_what_the_definition_says(pool_path: Path, combine: Combine, stage: int) -> None:
    pool = Pool.open(pool_path)
    evaluator = open_evaluator(pool)
    members, thresholds = [0, 3, 7], [0.71, 0.83]
    found = sweep(evaluator.table(np.array(members), combine), thresholds, stage)
    assert len(found.right) > 50
    macs = [pool.member(pool.names[i]).macs for i in members]
    for row in range(0, len(found.right), 7):
        tried: list[float | None] = [*thresholds, None]
        tried[stage] = found.threshold(row)
        stages = [Stage(member=pool.names[i], threshold=t) for i, t in zip(members, tried, strict=True)]
        expected = evaluate(Cascade(stages=tuple(stages), combine=combine), pool, "val")
        assert found.right[row] / 600 == pytest.approx(expected.accuracy)
        assert (found.reached[row] * macs).sum() / 600 == pytest.approx(expected.macs)


def test_a_table_is_right_where_shortlists_do_not_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, c = 200, 300
    pool = Pool.open_or_create(tmp_path / "pool", c).with_split("val", rng.integers(c, size=n))
    for i in range(4):
        # Nearly flat: any of the 300 classes may win the mean.
        rows = rng.dirichlet(np.full(c, 50.0), size=n)
        pool = pool.with_outputs(Member(name=f"m{i}", source="imported", macs=i + 1), "val", rows, "flat")
    table = open_evaluator(pool, 4).table(np.array([2, 0, 3, 1]))
    assert_is_the_mean(table, pool, [2, 0, 3, 1])


def assert_is_the_mean(table: Table, pool: Pool, members: list[int]) -> None:
    """The samples of a table are in an order of its own."""
    total = np.zeros((pool.split("val").n, pool.n_classes), np.float32)
    for j, member in enumerate(members):
        total += pool.probs(pool.names[member], "val").astype(np.float32)
        mean = total / np.float32(j + 1)
        assert sorted(table.confidence[j].tolist()) == sorted(mean.max(axis=1).tolist())
        is_right = mean.argmax(axis=1) == pool.labels("val")
        assert sorted(zip(table.confidence[j].tolist(), table.is_right[j].tolist(), strict=True)) == sorted(
            zip(mean.max(axis=1).tolist(), is_right.tolist(), strict=True)
        )
