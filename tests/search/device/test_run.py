from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encas.cascade import Cascade, Stage
from encas.cost import Objective, cost_model
from encas.errors import InvalidInput
from encas.evaluation import evaluate
from encas.export import MemberSpec, record
from encas.front import Candidate, Front
from encas.pool import Latency, Pool
from encas.preprocess import Preprocess
from encas.runtime.measure import this_machine
from encas.search import search
from encas.search.device import refine
from encas.search.device.cascades import Cascades
from encas.search.device.run import MOST_ROUNDS, Device, pair, settle, spread

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))
NAMES = ("hidden016", "hidden064", "hidden512")
STEP_S = 0.001


class Steps:
    """A clock on which every call takes a millisecond, whatever it does."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += STEP_S
        return self.now_s


def timed(pool: Pool, machine: str, seconds: float = STEP_S) -> Pool:
    """Give all members the same times."""
    entry = Latency(machine=machine, provider="cpu", batch=1, latency_s=seconds, p95_s=seconds, n=5)
    return pool.with_latency({name: [entry] for name in pool.names})


@pytest.fixture
def pool(digits_files: Path, tmp_path: Path) -> Pool:
    members = [MemberSpec(source=f"onnx:{digits_files}/networks/{name}.onnx") for name in NAMES]
    made = record(
        tmp_path / "pool", members, digits_files / "digits.npz", rows="597:1197", preprocess=PREPROCESS
    )
    return timed(made, this_machine("cpu").name)


def searching(pool: Pool) -> "partial[Front]":
    return partial(search, pool, objective="latency:cpu:1", evaluations=200, max_stages=2)


def test_what_was_predicted_and_measured_is_written_with_the_front(pool: Pool, tmp_path: Path) -> None:
    found = search(pool, objective="latency:cpu:1", evaluations=200, max_stages=2, out=tmp_path / "front")
    told: list[tuple[str, int]] = []

    def progress(what: str, total: int) -> Any:
        told.append((what, total))
        return lambda _n, _words: None

    front = refine(found, pool, 4, searching(pool), write=True, progress=progress, clock=Steps())
    assert Front.open(tmp_path / "front").file.refinement == front.file.refinement
    refinement = front.file.refinement
    assert refinement is not None
    assert (refinement.provider, refinement.batch, refinement.images) == ("cpu", 1, 64)
    *rounds, last = told
    assert rounds == [(f"round {j + 1}", 5 * len(r.trials)) for j, r in enumerate(refinement.rounds)]
    n_distinct = len({trial.cascade for pair in refinement.pairs for trial in (pair.before, pair.after)})
    assert last == ("first and last front", 5 * n_distinct)
    assert [pair.before.error for pair in refinement.pairs] == [c.error for c in spread(found.candidates, 4)]
    assert refinement.rounds[0].corrections is None
    assert all(t.measured_s == pytest.approx(STEP_S) for r in refinement.rounds for t in r.trials)
    assert front.file.evaluations["genotypes"] > found.file.evaluations["genotypes"]


@pytest.mark.slow
def test_costs_are_as_corrected_and_the_front_is_nowhere_worse(pool: Pool) -> None:
    """Times that are a hundred times too high are divided by five, the most that is believed."""
    slow = timed(pool, this_machine("cpu").name, 100 * STEP_S)
    found = searching(slow)()
    front = refine(found, slow, 3, searching(slow), clock=Steps())
    assert front.file.refinement is not None
    rounds = front.file.refinement.rounds
    assert len(rounds) == 1 + MOST_ROUNDS
    corrections = rounds[-1].corrections
    assert corrections is not None and corrections.others == 0.2
    goal = Objective.parse("latency:cpu:1")
    costs = cost_model(slow.file.members, goal, 600, corrections).singles
    assert [single.cost for single in front.file.singles] == pytest.approx(costs.tolist())
    assert costs == pytest.approx(20 * STEP_S)
    for before in found.candidates:
        assert any(c.error <= before.error and c.cost <= 0.2 * before.cost * 1.0001 for c in front.candidates)


def test_it_ends_when_predictions_agree(pool: Pool) -> None:
    """A clock of one step for each call agrees with times of one step for each cascade of one member."""
    single = partial(search, pool, objective="latency:cpu:1", evaluations=200, max_stages=1)
    front = refine(single(), pool, 3, single, clock=Steps())
    assert front.file.refinement is not None
    assert len(front.file.refinement.rounds) == 2  # one correction at least
    assert front.file.refinement.median_error < 0.05


def test_cascades_take_turns_and_count_the_rows_that_ran(pool: Pool, tmp_path: Path) -> None:
    device = Device.of(pool, "val", "latency:cpu:1")
    stages = (Stage(member="hidden016", threshold=0.9), Stage(member="hidden512"))
    cascades = [Cascade(stages=stages), Cascade(stages=(Stage(member="hidden064"),))]
    turns = Cascades(pool, "val", tmp_path / "made", "cpu", clock=Steps())
    calls: list[str] = []
    two, one = turns.run(cascades, device.images, 4, 3, lambda n, words: calls.extend([words] * n))
    assert calls == [f"pass {j} of 3" for j in (1, 1, 2, 2, 3, 3)]
    assert two.batches_s == pytest.approx(np.full(16, STEP_S))
    assert one.survivors.tolist() == [[4]] * 16
    expected = evaluate(cascades[0], pool, "val").exit_fractions[1]
    assert two.survivors[:, 0].tolist() == [4] * 16
    assert two.survivors[:, 1].sum() / 64 == pytest.approx(expected, abs=0.15)
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["hidden016", "hidden064", "hidden512"]


def test_candidates_are_spread_over_the_whole_front(pool: Pool) -> None:
    candidates = search(pool, evaluations=2000, max_stages=3).candidates
    assert len(candidates) > 8
    chosen = spread(candidates, 4)
    assert (chosen[0], chosen[-1]) == (candidates[0], candidates[-1])
    costs = [candidate.cost for candidate in chosen]
    assert costs == sorted(set(costs))
    assert spread(candidates, 1000) == list(candidates)


def candidate(name: str, error: float, cost: float) -> Candidate:
    return Candidate(error=error, cost=cost, cascade=Cascade(stages=(Stage(member=name),)))


def test_what_was_faster_before_stays_and_its_cost_is_in_the_scale_of_what_it_beats() -> None:
    first = [candidate("a", 0.3, 9.0), candidate("b", 0.2, 9.5), candidate("c", 0.1, 9.9)]
    last = [candidate("x", 0.3, 1.0), candidate("y", 0.15, 2.0), candidate("z", 0.1, 4.0)]
    pairs = pair(first, last, 3)
    assert [(one.cascade.stages[0].member, two.cascade.stages[0].member) for one, two in pairs] == [
        ("a", "x"),
        ("b", "y"),
        ("c", "z"),
    ]
    seconds = {"a": 10.0, "b": 15.0, "c": 50.0, "x": 8.0, "y": 20.0, "z": 40.0}
    measured_s: dict[tuple[Stage, ...], float] = {(Stage(member=name),): s for name, s in seconds.items()}
    settled = settle(last, pairs, measured_s)
    assert [(c.cascade.stages[0].member, c.cost) for c in settled] == [
        ("x", 1.0),
        ("b", 1.5),
        ("y", 2.0),
        ("z", 4.0),
    ]


@given(st.data())
def test_the_last_front_has_nothing_slower_than_what_was_measured_of_the_first(data: st.DataObject) -> None:
    def front(name: str) -> list[Candidate]:
        n = data.draw(st.integers(1, 6))
        errors = data.draw(st.lists(st.integers(1, 20), min_size=n, max_size=n, unique=True))
        costs = data.draw(st.lists(st.integers(1, 20), min_size=n, max_size=n, unique=True))
        both = zip(sorted(errors, reverse=True), sorted(costs), strict=True)
        return [candidate(f"{name}{j}", error / 20, float(cost)) for j, (error, cost) in enumerate(both)]

    first, last = front("before"), front("after")
    pairs = pair(first, last, 4)
    measured_s = {c.cascade.stages: data.draw(st.floats(0.5, 2)) for two in pairs for c in two}
    settled = settle(last, pairs, measured_s)
    assert [c.cost for c in settled] == sorted({c.cost for c in settled})
    assert [c.error for c in settled] == sorted({c.error for c in settled}, reverse=True)
    for before, _ in pairs:
        chosen = min((c for c in settled if c.error <= before.error), key=lambda c: c.cost)
        assert measured_s[chosen.cascade.stages] <= measured_s[before.cascade.stages]


def test_a_search_that_cannot_be_corrected_here_says_so(pool: Pool, digits_files: Path) -> None:
    with pytest.raises(
        InvalidInput, match="objective 'macs': only a search by latency can be refined on the"
    ):
        Device.of(pool, "val", "macs")
    elsewhere = timed(pool, "another machine")
    with pytest.raises(
        InvalidInput, match=r"its times are of another machine, this is .*; measure the pool here"
    ):
        Device.of(elsewhere, "val", "latency:cpu:1:another")
    with pytest.raises(InvalidInput, match="refine-on-device: must be at least 1 cascade, got 0"):
        refine(searching(pool)(), pool, 0, searching(pool))
    (digits_files / "digits.npz").unlink()
    with pytest.raises(
        InvalidInput, match="the images of split 'val' are not at hand, and cascades must be run"
    ):
        Device.of(pool, "val", "latency:cpu:1:" + this_machine("cpu").name)
