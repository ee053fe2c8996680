"""Cheaper cascades when there is much to do, before anybody is refused, and back when it is calm."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encas.bundle import Bundle
from encas.runtime.executor import CascadeExecutor
from encas.serve.engine import Engine, Outcome
from encas.serve.gears import GearBox, GearPolicy
from encas.serve.model import metadata_of
from encas.serve.refusals import Overloaded
from encas.serve.scheduler import StageLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.conftest import Digits, Served

WAIT_S = 30.0


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def box(n: int = 4) -> tuple[GearBox, Clock]:
    clock = Clock()
    return GearBox(n, GearPolicy(delay_s=0.1, calm_s=1.0), clock), clock


class TestGearBox:
    @pytest.mark.parametrize(
        ("delay_s", "gear"), [(0.0, 0), (0.099, 0), (0.1, 1), (0.25, 2), (0.31, 3), (9.0, 3)]
    )
    def test_each_so_much_of_delay_is_a_gear(self, delay_s: float, gear: int) -> None:
        gears, _ = box()
        assert gears.choose(delay_s, 0) == gear

    @pytest.mark.parametrize(("fill", "gear"), [(0.1, 0), (0.2, 1), (0.4, 2), (0.5, 3), (1.0, 3)])
    def test_half_a_full_queue_is_the_last_gear_whatever_is_known_of_times(
        self, fill: float, gear: int
    ) -> None:
        gears, _ = box()
        assert gears.choose(0, fill) == gear

    def test_back_it_goes_one_by_one_after_some_calm_each(self) -> None:
        gears, clock = box()
        assert gears.choose(0.2, 0) == 2
        found = []
        for clock.now_s in (0.5, 0.99, 1.0, 1.5, 2.0, 9.0):
            found.append(gears.choose(0, 0))
        assert found == [2, 2, 1, 1, 0, 0]
        assert gears.n_shifts == 3

    def test_who_asks_after_a_long_calm_gets_the_best_gear_at_once(self) -> None:
        gears, clock = box()
        gears.choose(0.3, 0)
        clock.now_s = 100
        assert gears.choose(0, 0) == 0

    def test_a_delay_near_the_level_holds_the_gear(self) -> None:
        gears, clock = box()
        gears.choose(0.2, 0)
        for clock.now_s in np.arange(0.5, 20, 0.5):
            assert gears.choose(0.16, 0) == 2  # above 1.5 levels
        clock.now_s = 20.4
        gears.choose(0.14, 0)
        clock.now_s = 20.6
        assert gears.choose(0.14, 0) == 1

    def test_a_moment_of_pressure_begins_the_calm_anew(self) -> None:
        gears, clock = box()
        gears.choose(0.1, 0)
        for clock.now_s, delay_s in ((0.9, 0.0), (1.0, 0.09), (1.9, 0.0)):
            assert gears.choose(delay_s, 0) == (0 if clock.now_s == 1.0 and delay_s == 0 else 1)
        clock.now_s = 2.0
        assert gears.choose(0, 0) == 0

    def test_who_only_looks_moves_nothing_upwards(self) -> None:
        gears, clock = box()
        assert gears.choose(0.3, 0, coming=False) == 0
        gears.choose(0.1, 0)
        for clock.now_s in (0.5, 1.0):
            found = gears.choose(0, 0, coming=False)
        assert found == 0

    def test_a_short_deadline_makes_shorter_levels(self) -> None:
        assert GearPolicy(0.1).within(timeout_s=0.4, n_gears=4).delay_s == 0.05
        assert GearPolicy(0.1).within(timeout_s=30, n_gears=4).delay_s == 0.1

    @settings(max_examples=40)
    @given(
        n=st.integers(1, 5),
        steps=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0, 1)), max_size=60),
    )
    def test_it_never_is_below_what_the_delay_asks_for_and_never_jumps_back(
        self, n: int, steps: list[tuple[float, float, float]]
    ) -> None:
        gears, clock = box(n)
        for passed_s, delay_s, fill in steps:
            clock.now_s += passed_s
            found = gears.choose(delay_s, fill)
            assert min(int(delay_s / 0.1), n - 1) <= found < n
            assert gears.choose(delay_s, fill) == found  # asking is not pressing


@pytest.fixture
def pool() -> "Any":
    with ThreadPoolExecutor(3) as threads:
        yield threads


def test_every_gear_answers_as_its_cascade_does_with_sessions_in_common(
    geared_bundle: Bundle, digits: "Digits"
) -> None:
    images = digits.images[digits.test][:200]
    with CascadeExecutor(geared_bundle, "cpu") as executor:
        gears = [executor, *map(executor.geared, geared_bundle.cheaper)]
        for number, gear in enumerate(gears):
            with CascadeExecutor(geared_bundle.at_gear(number), "cpu") as alone:
                expected = alone.run(images)
            found = gear.run(images)
            np.testing.assert_array_equal(found.probs, expected.probs)
            np.testing.assert_array_equal(found.exit_stage, expected.exit_stage)
            np.testing.assert_array_equal(found.macs, expected.macs)
        assert gears[1].runners["hidden016"] is gears[0].runners["hidden016"]
    with pytest.raises(ValueError, match="closed"):
        gears[1].run(images)


def test_what_comes_to_a_long_queue_is_answered_in_cheaper_gears_before_anybody_is_refused(
    geared_bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    tensor = (digits.images[digits.test][:20, None] / np.float32(255)).astype(np.float32)
    clock = Clock()
    policy = GearPolicy(delay_s=1e9)  # the fill alone decides: no time passes on this clock

    async def ask() -> list[Any]:
        calls = [asyncio.create_task(engine.infer(tensor[i : i + 1], WAIT_S)) for i in range(20)]
        return await asyncio.gather(*calls, return_exceptions=True)

    executor = Held(geared_bundle)
    engine = Engine(executor, [StageLimits(8, max_queue_size=16)] * 3, pool, clock=clock, policy=policy)
    try:
        found = asyncio.run(opened(ask, executor))
    finally:
        executor.gate.set()
        engine.close()
    outcomes = [one for one in found if isinstance(one, Outcome)]
    gears = [outcome.gear for outcome in outcomes]
    assert gears == sorted(gears)  # in the order in which they came
    assert gears[:4] == [0, 0, 0, 0] and gears[-1] == 2 and set(gears) == {0, 1, 2}
    assert all(isinstance(one, (Outcome, Overloaded)) for one in found)
    with CascadeExecutor(geared_bundle, "cpu") as alone:
        by_gear = [alone, *map(alone.geared, geared_bundle.cheaper)]
        for row, outcome in enumerate(outcomes):
            expected = by_gear[outcome.gear].run(tensor[row : row + 1])
            assert outcome.answers.exit_stage.tolist() == expected.exit_stage.tolist()
            assert outcome.answers.macs.tolist() == expected.macs.tolist()
            np.testing.assert_allclose(outcome.answers.probs, expected.probs, atol=1e-3)
            ran = np.isfinite(outcome.confidences[0])
            assert ran.sum() == expected.exit_stage[0] + 1
            assert outcome.confidences[0][ran][-1] == outcome.answers.confidence[0]


class Held(CascadeExecutor):
    """Runs when it is let."""

    def __init__(self, bundle: Bundle) -> None:
        import threading

        super().__init__(bundle, "cpu")
        self.gate = threading.Event()

    def run_stage(self, stage: int, tensor: Any) -> Any:
        assert self.gate.wait(WAIT_S)
        return super().run_stage(stage, tensor)


async def opened(ask: "Callable[[], Any]", executor: Held) -> list[Any]:
    """Let the networks run when everybody has asked."""
    task = asyncio.ensure_future(ask())
    for _ in range(3):
        await asyncio.sleep(0)
    executor.gate.set()
    found: list[Any] = await task
    return found


def test_a_request_that_the_best_gear_cannot_answer_in_time_gets_a_cheaper_one(
    geared_bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    tensor = (digits.images[:16, None] / np.float32(255)).astype(np.float32)
    executor, clock = Held(geared_bundle), Clock()
    engine = Engine(executor, [StageLimits(4)] * 3, pool, clock=clock, policy=GearPolicy(delay_s=1e9))
    engine._queues._pace[0].add(1, 10.0)  # ten seconds for a sample
    costs = [pace.weight for pace in engine._queues._pace]
    first_s, second_s = 10.0, 10.0 * costs[1] / costs[0]

    async def ask() -> list[Any]:
        calls = [
            asyncio.create_task(engine.infer(tensor[:1], 1e6)),
            asyncio.create_task(engine.infer(tensor[:1], 1.5 * (first_s + second_s) + 0.1)),
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    try:
        found = asyncio.run(opened(ask, executor))
    finally:
        executor.gate.set()
        engine.close()
    assert [outcome.gear for outcome in found] == [0, 1]


def test_metadata_say_what_each_gear_is(geared_bundle: Bundle, bundle: Bundle) -> None:
    metadata = metadata_of(geared_bundle)
    accuracies = [gear.evaluated["test"].accuracy for gear in geared_bundle.gears]
    assert accuracies == sorted(accuracies, reverse=True)
    for number, accuracy in enumerate(accuracies):
        said = metadata.properties[f"gear.{number}"]
        assert f"accuracy {accuracy:.4f}" in said and "on 'test'" in said
    assert metadata.outputs[-1].name == "gear"
    assert "gear.0" not in metadata_of(bundle).properties
    assert "gear" not in {output.name for output in metadata_of(bundle).outputs}


@pytest.mark.slow
def test_answers_statistics_and_metrics_name_the_gear(
    geared_bundle: Bundle,
    digits: "Digits",
    start_server: "Callable[..., AbstractContextManager[Served]]",
) -> None:
    options = ("--provider", "cpu", "--max-queue-size", "64", "--gear-delay-ms", "1000000")
    with (
        start_server(geared_bundle.path, *options) as server,
        httpx.Client(base_url=server.url, timeout=WAIT_S) as client,
    ):
        pixels = digits.images[digits.test][:40]
        tensor = {
            "name": "image",
            "datatype": "UINT8",
            "shape": [1, 8, 8],
            "data": pixels[0].ravel().tolist(),
        }
        answer = client.post("/v2/models/digits/infer", json={"inputs": [tensor]}).json()
        assert {"name": "gear", "datatype": "INT64", "shape": [1], "data": [0]} in answer["outputs"]
        asked = {"inputs": [tensor], "outputs": [{"name": "gear"}]}
        assert [
            out["name"] for out in client.post("/v2/models/digits/infer", json=asked).json()["outputs"]
        ] == ["gear"]
        metrics = client.get("/metrics").text
        assert 'encas_gear{model="digits"} 0.0' in metrics
        assert 'encas_gear_samples_total{gear="0",model="digits"} 2.0' in metrics
        for number, gear in enumerate(geared_bundle.gears):
            line = f'encas_gear_accuracy{{gear="{number}",model="digits"}} {gear.evaluated["test"].accuracy}'
            assert line in metrics
        stages = client.get("/v2/models/digits/stats").json()["model_stats"][0]["stage_stats"]
        assert [(one["gear"], one["stage"]) for one in stages] == [
            (0, 0),
            (0, 1),
            (0, 2),
            (1, 0),
            (1, 1),
            (2, 0),
        ]
        assert sum(one["reached"] for one in stages) >= 2
        assert sum(one["reached"] for one in stages if one["gear"] > 0) == 0
