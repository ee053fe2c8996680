from pathlib import Path

import pytest

from encas.cascade import Cascade, Stage
from encas.evaluation import evaluate
from encas.pool import Pool


def test_a_cascade_of_one_member_is_that_member(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    found = evaluate(Cascade(stages=(Stage(member="hidden512"),)), pool, "test")
    right = pool.probs("hidden512", "test").argmax(axis=1) == pool.labels("test")
    assert found.accuracy == right.mean()
    assert found.macs == pool.member("hidden512").macs
    assert found.exit_fractions == (1.0,)


def test_the_digits_cascade_costs_less_than_its_last_member(pool_path: Path, digits_cascade: Cascade) -> None:
    pool = Pool.open(pool_path)
    found = evaluate(digits_cascade, pool, "test")
    assert found.macs < pool.member("hidden512").macs
    assert sum(found.exit_fractions) == pytest.approx(1)
    assert min(found.exit_fractions) > 0
