from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encas.cascade import Searched
from encas.errors import InvalidInput
from encas.held_out import HeldOut
from encas.pool import Member, Pool


def n_right(pool: Pool) -> NDArray[np.intp]:
    """How many members answer each sample rightly."""
    labels = pool.labels("val")
    found: NDArray[np.intp] = np.sum(
        [pool.probs(name, "val").argmax(axis=1) == labels for name in pool.names], axis=0
    )
    return found


def test_a_part_of_the_split_is_kept_out_and_always_the_same(pool_path: Path) -> None:
    held_out = HeldOut.of(Pool.open(pool_path), "val", 0.3)
    assert len(held_out.rows) == 180
    assert sorted([*held_out.rows, *held_out.rest]) == list(range(600))
    assert held_out.rows.tolist() == sorted(held_out.rows.tolist())
    assert held_out.searched.report_fraction == 0.3
    np.testing.assert_array_equal(held_out.rows, HeldOut.of(Pool.open(pool_path), "val", 0.3).rows)


def test_both_parts_are_equally_hard(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    easiness = n_right(pool)
    by_chance = [easiness[np.random.default_rng(i).permutation(600)[:180]].mean() for i in range(50)]
    for fraction in (0.1, 0.3, 0.5):
        held_out = HeldOut.of(pool, "val", fraction)
        np.testing.assert_array_equal(held_out.easiness, easiness[held_out.rows])
        off = abs(held_out.easiness.mean() - easiness.mean())
        assert off < np.std(by_chance) / 3


def test_nothing_is_kept_out_if_the_part_is_zero(pool_path: Path) -> None:
    held_out = HeldOut.of(Pool.open(pool_path), "val", 0)
    assert len(held_out.rows) == 0
    assert held_out.rest.tolist() == list(range(600))
    assert held_out.searched == Searched(split="val")


@pytest.mark.parametrize("fraction", [-0.1, 0.0005, 0.9999, 1, float("nan")])
def test_a_part_that_leaves_nothing_is_refused(pool_path: Path, fraction: float) -> None:
    with pytest.raises(InvalidInput, match="of the 600 samples of split 'val' some must be left"):
        HeldOut.of(Pool.open(pool_path), "val", fraction)


def test_what_was_kept_out_is_found_again_or_not_at_all(pool_path: Path) -> None:
    pool = Pool.open(pool_path)
    held_out = HeldOut.of(pool, "val", 0.25)
    np.testing.assert_array_equal(HeldOut.again(pool, held_out.searched).rows, held_out.rows)

    def with_member(name: str, off: NDArray[np.intp]) -> Pool:
        probs = np.eye(10, dtype=np.float32)[(pool.labels("val") + off) % 10]
        return pool.with_outputs(Member(name=name, source="imported", macs=1), "val", probs, "by hand")

    # A member that is never right changes nobody's rank, one that is now and then does.
    changed = with_member("wrong", np.ones(600, np.intp))
    np.testing.assert_array_equal(HeldOut.again(changed, held_out.searched).rows, held_out.rows)
    changed = with_member("half", np.arange(600) % 2)
    with pytest.raises(InvalidInput, match="has other members or outputs on 'val'"):
        HeldOut.again(changed, held_out.searched)


def test_samples_shared_out_by_hardness_are_worth_more_than_samples_by_chance() -> None:
    searched = Searched(split="val", report_fraction=0.25)
    easiness = np.repeat([0, 1], 50)
    held_out = HeldOut(searched, np.arange(100), np.arange(100, 400), easiness)
    # What hardness decides is known as well as from the whole split, what it does not from these alone.
    assert held_out.worth(easiness == 1) == pytest.approx(400)
    assert held_out.worth(np.arange(100) % 2 == 0) == pytest.approx(100)
    assert held_out.worth(np.ones(100, np.bool_)) == 100
    mixed = np.concatenate([np.arange(50) < 10, np.arange(50) < 40])
    assert held_out.worth(mixed) == pytest.approx(1 / (0.64 / 100 + 0.36 / 400))
