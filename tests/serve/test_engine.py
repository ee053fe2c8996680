"""The thread that runs a bundle: its answers are the executor's, whatever ran together."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encas.bundle import Bundle
from encas.cascade import Cascade
from encas.errors import InvalidInput, TooLarge
from encas.preprocess import Preprocess
from encas.runtime.executor import CascadeExecutor
from encas.serve.engine import BatchReport, Engine, Outcome, _Work
from encas.serve.refusals import DeadlinePassed, Overloaded, ShuttingDown
from encas.serve.scheduler import StageLimits

if TYPE_CHECKING:
    from tests.conftest import Digits

WAIT_S = 30.0


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


class Held(CascadeExecutor):
    """Runs the first stage when it is let."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "cpu")
        self.started, self.gate = threading.Event(), threading.Event()

    def run_stage(self, stage: int, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        self.started.set()
        assert self.gate.wait(WAIT_S)
        return super().run_stage(stage, tensor)


@contextmanager
def engine(
    executor: CascadeExecutor,
    pool: ThreadPoolExecutor,
    limits: StageLimits | list[StageLimits] | None = None,
    report: Callable[[BatchReport], None] = lambda _report: None,
) -> Iterator[Engine]:
    limits = limits or StageLimits()
    n_stages = len(executor.bundle.cascade.stages)
    made = Engine(executor, [limits] * n_stages if isinstance(limits, StageLimits) else limits, pool, report)
    try:
        yield made
    finally:
        if isinstance(executor, Held):
            executor.gate.set()
        made.close()


def together(calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(all_of_them())


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def with_other_size(bundle: Bundle) -> Bundle:
    """The digits bundle, its second member wanting the images prepared in another way than the others."""
    first, second, third = bundle.file.members
    spec = Preprocess(channels=1, size=(8, 8), interpolation="bicubic", crop_pct=0.8, mean=(0.1,), std=(0.9,))
    members = (first, second.model_copy(update={"preprocess": spec}), third)
    return replace(bundle, file=bundle.file.model_copy(update={"members": members}))


def variants(bundle: Bundle) -> dict[str, Bundle]:
    cascades = {
        "mean": bundle.cascade,
        "last": bundle.cascade.model_copy(update={"combine": "last"}),
        "logit gap": bundle.cascade.model_copy(update={"confidence": "logit-gap"}),
        "one stage": Cascade(stages=bundle.cascade.stages[-1:]),
    }
    found = {name: replace(bundle, cascade=cascade) for name, cascade in cascades.items()}
    return {**found, "two preparations": with_other_size(bundle)}


@pytest.mark.parametrize("variant", ["mean", "last", "logit gap", "one stage", "two preparations"])
@pytest.mark.parametrize("form", ["pixels", "files"])
def test_every_sample_gets_the_executors_decision_whatever_ran_with_it(
    variant: str, form: str, bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    bundle = variants(bundle)[variant]
    images = digits.images[digits.test][:300]
    rng = np.random.default_rng(len(variant))
    cuts = np.sort(rng.choice(np.arange(1, 300), 90, replace=False))
    requests = np.split(np.arange(300), cuts)  # 91 requests of 1 to some 20 samples
    sizes = [5, 3, 8][: len(bundle.cascade.stages)]
    limits = [StageLimits(size, 0.001, 1000) for size in sizes]
    reports: list[BatchReport] = []
    with CascadeExecutor(bundle, "cpu") as executor:
        expected = executor.run(images)
    with engine(CascadeExecutor(bundle, "cpu"), pool, limits, reports.append) as running:
        calls = [
            running.infer(images[rows] if form == "pixels" else tuple(png(i) for i in images[rows]), WAIT_S)
            for rows in requests
        ]
        outcomes: list[Outcome] = together(calls)
    for name in ("label", "exit_stage", "macs"):
        found = np.concatenate([getattr(outcome.answers, name) for outcome in outcomes])
        np.testing.assert_array_equal(found, getattr(expected, name))
    for name in ("probs", "confidence"):
        found = np.concatenate([getattr(outcome.answers, name) for outcome in outcomes])
        np.testing.assert_allclose(found, getattr(expected, name), atol=1e-3, rtol=1e-3)
    ran = [sum(r.n for r in reports if r.stage == stage) for stage in range(len(sizes))]
    assert ran == [int((expected.exit_stage >= stage).sum()) for stage in range(len(sizes))]
    assert max(r.n for r in reports if r.stage == 0) == sizes[0]


def test_survivors_of_different_requests_run_together(
    bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    images = digits.images[digits.test][:64]
    reports: list[BatchReport] = []
    limits = [StageLimits(8), StageLimits(8, 10), StageLimits(8, 10)]
    executor = Held(bundle)

    async def ask() -> list[Outcome]:
        tensor = (images[:, None] / np.float32(255)).astype(np.float32)
        calls = [asyncio.create_task(running.infer(tensor[i : i + 1], WAIT_S)) for i in range(64)]
        await asyncio.sleep(0)
        executor.gate.set()
        return await asyncio.gather(*calls)

    with engine(executor, pool, limits, reports.append) as running:
        outcomes = asyncio.run(ask())
    survivors = sum(int(outcome.answers.exit_stage[0]) > 0 for outcome in outcomes)
    second = [report.n for report in reports if report.stage == 1]
    assert survivors > 8
    assert len(second) == -(-survivors // 8)  # every batch was full but the last one


def test_one_bad_image_fails_its_own_request_only(
    bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    good = digits.images[digits.test][:1]
    huge = np.full((1, 1, 8, 8), 3e38, np.float32)  # finite, and infinity once it is multiplied
    with engine(CascadeExecutor(bundle, "cpu"), pool) as running:
        found = together(
            [running.infer(images, WAIT_S) for images in (good, (b"no image",), huge, good, (png(good[0]),))]
        )
    assert [type(one) for one in found] == [Outcome, InvalidInput, InvalidInput, Outcome, Outcome]
    assert "image 0: is no image" in str(found[1])
    assert "answered NaN or infinity for image 0" in str(found[2])


def test_a_network_that_fails_fails_the_requests_of_its_batch(
    bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    executor = CascadeExecutor(bundle, "cpu")
    with engine(executor, pool) as running:
        executor.close()
        (found,) = together([running.infer(digits.images[:1], WAIT_S)])
        assert isinstance(found, ValueError)


def test_what_finds_no_room_is_refused_at_once_and_the_rest_is_answered(
    bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    executor = Held(bundle)

    async def ask() -> Sequence[Any]:
        first = asyncio.create_task(running.infer(digits.images[:1], WAIT_S))
        while not executor.started.is_set():
            await asyncio.sleep(0.001)
        accepted = asyncio.create_task(running.infer(digits.images[:3], WAIT_S))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="more requests than it can answer"):
            running.check_room(WAIT_S)
        with pytest.raises(Overloaded):
            await running.infer(digits.images[:1], WAIT_S)
        with pytest.raises(TooLarge, match="the request has 4 samples; the queue of 'digits' takes 3"):
            await running.infer(digits.images[:4], WAIT_S)
        executor.gate.set()
        return await asyncio.gather(first, accepted)

    with engine(executor, pool, StageLimits(1, max_queue_size=3)) as running:
        assert [len(outcome.answers) for outcome in asyncio.run(ask())] == [1, 3]


def test_a_request_that_waits_too_long_is_told_so_and_not_run(
    bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    executor = Held(bundle)
    reports: list[BatchReport] = []

    async def ask() -> Outcome:
        first = asyncio.create_task(running.infer(digits.images[:1], WAIT_S))
        while not executor.started.is_set():
            await asyncio.sleep(0.001)
        with pytest.raises(DeadlinePassed, match=r"'digits' did not answer within 0.02 s"):
            await running.infer(digits.images[:1], 0.02)
        executor.gate.set()
        return await first

    with engine(executor, pool, StageLimits(), reports.append) as running:
        asyncio.run(ask())
    assert sum(report.n for report in reports if report.stage == 0) == 1


def test_a_request_whose_client_went_away_is_not_run(
    bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    executor = Held(bundle)
    reports: list[BatchReport] = []

    async def ask() -> None:
        first = asyncio.create_task(running.infer(digits.images[:1], WAIT_S))
        while not executor.started.is_set():
            await asyncio.sleep(0.001)
        gone = asyncio.create_task(running.infer(digits.images[:5], WAIT_S))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.wait([gone])
        assert running.n_pending == 1
        executor.gate.set()
        await first

    with engine(executor, pool, StageLimits(), reports.append) as running:
        asyncio.run(ask())
    assert sum(report.n for report in reports if report.stage == 0) == 1


def test_closing_answers_what_was_accepted_and_refuses_what_comes(
    bundle: Bundle, digits: "Digits", pool: ThreadPoolExecutor
) -> None:
    executor = Held(bundle)

    async def ask() -> Outcome:
        accepted = asyncio.create_task(running.infer(digits.images[:2], WAIT_S))
        while not executor.started.is_set():
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(asyncio.to_thread(running.close))
        await asyncio.sleep(0.02)
        with pytest.raises(ShuttingDown):
            await running.infer(digits.images[:1], WAIT_S)
        executor.gate.set()
        outcome = await accepted
        await closing
        return outcome

    with engine(executor, pool) as running:
        assert len(asyncio.run(ask()).answers) == 2


def test_parts_of_a_request_that_are_prepared_at_once_do_not_lose_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By memory that is slow to come, so that each part would make its own if it could."""
    loop, make = asyncio.new_event_loop(), np.empty

    def slow(*arguments: Any) -> NDArray[np.float32]:
        time.sleep(0.05)
        return make(*arguments)

    monkeypatch.setattr(np, "empty", slow)
    work = _Work(8, loop.create_future())
    with ThreadPoolExecutor() as threads:
        for part in range(4):
            rows = np.arange(2 * part, 2 * part + 2)
            threads.submit(work.keep, 0, rows, np.full((2, 1), part, np.float32))
    assert work.tensor(0, np.arange(8)).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    loop.close()
