import itertools

import numpy as np
import pytest

from encas.cost import Timed
from encas.latency import Curve, MemberTime, batch_time_s, binomial, spread_of
from encas.preprocess import Preprocess

SMALL, LARGE = Preprocess(size=(8, 8)), Preprocess(size=(16, 16))


def member_time(
    run: list[tuple[int, float]], preprocess: Preprocess, prepare_s: float, gain_s: float = 0.3
) -> MemberTime:
    return MemberTime(
        run=Curve.through(run),
        prepare=Curve.through([(1, prepare_s)]),
        decode=Curve.through([(1, 0.25)]),
        preprocess=preprocess,
        gain=Curve.through([(1, gain_s)]),
    )


MEMBERS = [
    member_time([(1, 1.0), (4, 2.5)], SMALL, 0.1),
    member_time([(1, 5.0), (2, 8.0), (4, 11.0)], SMALL, 0.1),
    member_time([(1, 20.0), (4, 50.0)], LARGE, 0.5),
]
EXITS = np.array([0, 0, 1, 2, 0, 2, 1, 0])  # of 8 samples


@pytest.mark.parametrize(("n", "seconds"), [(0, 0), (1, 3), (2, 4), (4, 6), (6, 9), (16, 24)])
def test_a_curve_is_straight_between_sizes_and_goes_on_as_it_ended(n: int, seconds: float) -> None:
    curve = Curve.through([(8, 12.0), (4, 6.0), (1, 3.0)])
    assert curve.at(np.array([n])) == pytest.approx([seconds])


def test_below_the_smallest_size_it_goes_on_as_it_began_but_not_below_nothing() -> None:
    assert Curve.through([(4, 6.0), (8, 10.0)]).at(np.array([1, 2])) == pytest.approx([3, 4])
    assert Curve.through([(4, 2.0), (8, 10.0)]).at(np.array([1, 2])) == pytest.approx([0.5, 1])
    assert Curve.through([(4, 2.0)]).at(np.array([1, 2, 8])) == pytest.approx([0.5, 1, 4])


def test_larger_batches_never_take_less_beyond_what_was_measured() -> None:
    assert Curve.through([(1, 3.0), (2, 2.0)]).at(np.array([5])).tolist() == [2.0]


def test_chances_of_successes_are_binomial() -> None:
    expected = [[1, 0, 0], [0.5625, 0.375, 0.0625], [0, 0, 1]]
    assert binomial(2, np.array([0, 0.25, 1])) == pytest.approx(np.array(expected))
    assert binomial(500, np.linspace(0, 1, 101)).sum(axis=1) == pytest.approx(1, abs=1e-9)


def taken_s(exits: tuple[int, ...], before: tuple[int, ...]) -> float:
    """What a batch takes whose samples leave at these stages, after one whose samples left at those."""
    total_s, prepared = 0.25 * len(exits), set[Preprocess | None]()
    total_s -= 0 if any(before) else 0.3 * len(exits)
    for stage, time in enumerate(MEMBERS):
        n = np.array(sum(exit_stage >= stage for exit_stage in exits))
        total_s += float(time.run.at(n)) + (0 if time.preprocess in prepared else float(time.prepare.at(n)))
        prepared.add(time.preprocess)
    return total_s


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_mean_is_that_over_all_pairs_of_batches_that_can_be_drawn(batch: int) -> None:
    some = EXITS[1:5]
    pairs = itertools.product(itertools.product(some.tolist(), repeat=batch), repeat=2)
    reached = [float(np.mean(stage <= some)) for stage in range(3)]
    assert batch_time_s(MEMBERS, reached, batch) == pytest.approx(np.mean([taken_s(*pair) for pair in pairs]))


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_tables_say_what_the_definition_says(batch: int) -> None:
    model, rng = Timed.of(MEMBERS, batch, 8), np.random.default_rng(0)
    members = rng.integers(3, size=(50, 4))
    reached = np.sort(rng.integers(9, size=(50, 4)), axis=1)[:, ::-1].astype(np.int64)
    reached[:, 0] = 8
    members[reached == 0] = -1
    expected = [
        batch_time_s([MEMBERS[m] for m in row if m >= 0], [r / 8 for r in rs if r > 0], batch) / batch
        for row, rs in zip(members, reached, strict=True)
    ]
    assert model.mean(members, reached, 8) == pytest.approx(expected, rel=1e-9)
    assert model.singles == pytest.approx([batch_time_s([one], [1.0], batch) / batch for one in MEMBERS])


def test_tables_are_for_one_number_of_samples() -> None:
    with pytest.raises(ValueError, match="tabulated for 8 samples, asked about 9"):
        Timed.of(MEMBERS, 1, 8).mean(np.array([[0]]), np.array([[9]]), 9)


def test_drawn_batches_have_the_mean_of_all_and_a_tail() -> None:
    found = spread_of(MEMBERS, EXITS, 4, np.random.default_rng(0))
    reached = [float(np.mean(stage <= EXITS)) for stage in range(3)]
    assert found.mean_s == pytest.approx(batch_time_s(MEMBERS, reached, 4), rel=0.02)
    assert found.median_s < found.p95_s <= taken_s((2, 2, 2, 2), (2, 2, 2, 2))
