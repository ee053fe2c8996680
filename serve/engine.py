"""The thread that runs one bundle for all requests, stage by stage.

Images are decoded and resized in the threads of a pool, networks run in one thread, and the event loop only
hands requests in and takes answers out. What runs when is the scheduler's business.
"""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encas.bundle import Bundle
from encas.cascade import Answers, Cascade, Rows, Step, run_cascade, run_step
from encas.errors import InvalidInput, TooLarge
from encas.gears import figures_of
from encas.runtime.inputs import Inputs
from encas.runtime.preprocess import Tensor
from encas.serve.gears import GearBox, GearPolicy
from encas.serve.model import Images
from encas.serve.refusals import DeadlinePassed, Overloaded, ShuttingDown
from encas.serve.scheduler import Batch, Part, QueueFull, Scheduler, StageLimits

Clock = Callable[[], float]
_MOST_RECHECKS = 16  # requests that are kept until there is time to look at them again


class StageExecutor(Protocol):
    """What the engine asks of `encas.runtime.CascadeExecutor`."""

    bundle: Bundle

    @property
    def preparation_of(self) -> tuple[int, ...]:
        """(k,) which preprocessing each stage wants."""
        ...

    def geared(self, cascade: Cascade) -> "StageExecutor":
        """Return an executor of another cascade of the bundle; closing one closes both."""
        ...

    def inputs(self, images: Images) -> Inputs:
        """Decode images."""
        ...

    def run_stage(self, stage: int, tensor: Tensor) -> NDArray[np.float32]:
        """Run one stage's member."""
        ...

    def not_finite(self, stage: int, row: int) -> InvalidInput:
        """Say that a sample has no probabilities."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True)
class BatchReport:
    """One batch that has run."""

    stage: int
    n: int
    run_s: float
    confidence: NDArray[np.float32]  # (n,)
    leaves: NDArray[np.bool_]  # (n,)
    gear: int = 0


@dataclass(frozen=True)
class Recheck:
    """Which requests are looked at again, when nothing else is to do: one sample runs through all stages."""

    share: float = 0.0
    report: Callable[[int, bool], None] = lambda _gear, _agrees: None  # in the engine's thread
    draw: Callable[[], float] = random.random


@dataclass(frozen=True)
class Times:
    """Where the time of one request went."""

    prepare_s: float
    queue_s: float
    run_s: float  # of the batches it was in


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    answers: Answers
    times: Times
    gear: int  # 0: the bundle's cascade; higher ones are cheaper
    confidences: NDArray[np.float32]  # (n, k) after each stage of the gear; NaN: was not needed


@dataclass(eq=False)
class _Work:
    """One request on its way; the scheduler's ticket."""

    n: int
    future: "asyncio.Future[Outcome]"
    gear: int = 0
    n_stages: int = 1
    inputs: Inputs | None = None
    tensors: dict[int, Tensor] = field(default_factory=dict)  # by preparation, (n, ...) once prepared
    total: NDArray[np.float32] | None = None  # (n, c), as everything below
    probs: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None
    exit_stage: NDArray[np.intp] | None = None
    confidences: NDArray[np.float32] | None = None  # (n, k)
    n_left: int = 0  # samples that have their answer
    lock: threading.Lock = field(default_factory=threading.Lock)  # parts may be prepared at the same time
    prepare_s: float = 0.0
    queue_s: float = 0.0
    run_s: float = 0.0

    def tensor(self, which: int, rows: Rows) -> Tensor:
        tensor = self.tensors[which]
        return tensor if len(rows) == self.n else tensor[rows]

    def keep(self, which: int, rows: Rows, tensor: Tensor) -> None:
        if len(rows) == self.n:
            self.tensors[which] = tensor
            return
        with self.lock:
            if which not in self.tensors:
                self.tensors[which] = np.empty((self.n, *tensor.shape[1:]), np.float32)
        self.tensors[which][rows] = tensor

    def totals(self, rows: Rows) -> NDArray[np.float32]:
        assert self.total is not None
        return self.total[rows]

    def advance(self, stage: int, rows: Rows, step: Step) -> Rows:
        """Note what a stage made of some samples, and return those that go on."""
        if self.probs is None or self.total is None:
            shape = (self.n, step.mean.shape[1])
            self.total, self.probs = np.empty(shape, np.float32), np.empty(shape, np.float32)
            self.confidence = np.empty(self.n, np.float32)
            self.exit_stage = np.empty(self.n, np.intp)
            self.confidences = np.full((self.n, self.n_stages), np.nan, np.float32)
        assert self.confidence is not None and self.exit_stage is not None and self.confidences is not None
        self.confidences[rows, stage] = step.confidence
        # Whoever goes on is written over by a later stage.
        self.probs[rows], self.confidence[rows], self.exit_stage[rows] = step.mean, step.confidence, stage
        stays = ~step.leaves
        staying = rows[stays]
        self.n_left += len(rows) - len(staying)
        self.total[staying] = step.total[stays]
        return staying

    def outcome(self, macs: NDArray[np.int64]) -> Outcome:
        assert self.probs is not None and self.confidence is not None and self.exit_stage is not None
        assert self.confidences is not None
        answers = Answers(
            probs=self.probs,
            label=self.probs.argmax(axis=1),
            confidence=self.confidence,
            exit_stage=self.exit_stage,
            macs=macs[self.exit_stage],
        )
        times = Times(self.prepare_s, self.queue_s, self.run_s)
        return Outcome(answers, times, self.gear, self.confidences)


class _Gear:
    """A cascade that is ready to run."""

    def __init__(self, executor: StageExecutor) -> None:
        self.executor, self.cascade = executor, executor.bundle.cascade
        self.which = executor.preparation_of  # (k,)
        self.macs = np.cumsum([member.macs for member in executor.bundle.stage_members], dtype=np.int64)
        never = 1.0 if self.cascade.confidence == "max-probability" else np.inf
        stages = [stage.model_copy(update={"threshold": never}) for stage in self.cascade.stages[:-1]]
        stages.append(self.cascade.stages[-1])
        self.whole = self.cascade.model_copy(update={"stages": tuple(stages)})  # nobody leaves early


class Engine:
    """Runs one bundle; `infer` belongs to an event loop, everything else to any thread."""

    def __init__(
        self,
        executor: StageExecutor,
        limits: Sequence[StageLimits],
        pool: Pool,
        report: Callable[[BatchReport], None] = lambda _report: None,
        clock: Clock = time.monotonic,
        policy: GearPolicy | None = None,
        recheck: Recheck | None = None,
    ) -> None:
        """Start the thread.

        Args:
            executor: An open bundle; `close` closes it.
            limits: (k,) of each stage, for the gear that has most of them.
            pool: Threads that decode and resize.
            report: Told of every batch, in the engine's thread.
            clock: Seconds that only rise.
            policy: When to change gears, where the bundle has several.
            recheck: By default nothing is looked at again.
        """
        self.bundle = bundle = executor.bundle
        self._pool, self._report, self._clock = pool, report, clock
        self._gears = [_Gear(executor)]
        self._gears += [_Gear(executor.geared(cascade)) for cascade in bundle.cheaper]
        self._box = GearBox(len(self._gears), policy or GearPolicy(), clock)
        figures = figures_of(bundle.gears)
        weights = [one.macs for one in figures[1]] if figures else [float(g.macs[-1]) for g in self._gears]
        self._queues: Scheduler[_Work] = Scheduler(
            limits, clock, [len(cascade.stages) for cascade in bundle.gears], weights
        )
        self._recheck, self._rechecks = recheck or Recheck(), deque[_Work](maxlen=_MOST_RECHECKS)
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name=f"encas-{self.bundle.name}", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> tuple[int, ...]:
        """(k,) samples that wait for each stage."""
        with self._changed:
            return self._queues.n_waiting

    @property
    def n_pending(self) -> int:
        """Requests that are in work."""
        with self._changed:
            return self._queues.n_requests

    @property
    def gear(self) -> int:
        """The gear in use; it goes back when it is calm, also if nobody asks."""
        with self._changed:
            return self._box.choose(self._queues.delay_s, self._queues.fill, coming=False)

    @property
    def n_shifts(self) -> int:
        """How often the gear has changed."""
        return self._box.n_shifts

    @property
    def delay_s(self) -> float:
        """How long the networks are busy with what is here, as far as it is known."""
        with self._changed:
            return self._queues.delay_s

    def check_room(self, timeout_s: float) -> None:
        """Refuse early, before anything of a request is read.

        Raises:
            Overloaded: A queue is full, or so long that `timeout_s` would pass.
        """
        with self._changed:
            if not self._queues.has_room(deadline_s=self._clock() + timeout_s, gear=len(self._gears) - 1):
                raise Overloaded(self.bundle.name)

    def close(self) -> None:
        """Answer what was accepted, then stop; what comes now is refused."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._gears[0].executor.close()

    async def infer(self, images: Images, timeout_s: float) -> Outcome:
        """Answer the images of one request; when the awaiting task is cancelled, they leave the queues.

        Raises:
            Overloaded: No room for so many samples now.
            TooLarge: There never will be.
            ShuttingDown: The engine was closed.
            DeadlinePassed: Not answered within `timeout_s`.
            InvalidInput: An image that cannot be read.
        """
        loop = asyncio.get_running_loop()
        work = _Work(len(images), loop.create_future())
        self._admit(work, timeout_s)
        timer = loop.call_later(timeout_s, _fail, work, DeadlinePassed(self.bundle.name, timeout_s))
        try:
            if isinstance(images, np.ndarray) and images.dtype == np.float32:
                self._start(work, images)  # there is nothing to prepare
            else:
                self._pool.submit(self._start, work, images)
            return await work.future
        finally:
            timer.cancel()
            if work.inputs is not None:
                work.inputs.stop()
            with self._changed:
                if self._queues.drop(work):
                    self._changed.notify()

    def _admit(self, work: _Work, timeout_s: float) -> None:
        with self._changed:
            if self._closing:
                raise ShuttingDown(f"model '{self.bundle.name}'")
            if work.n > self._queues.capacity:
                raise TooLarge(
                    f"the request has {work.n} samples; the queue of '{self.bundle.name}' takes "
                    f"{self._queues.capacity}"
                )
            deadline_s, last = self._clock() + timeout_s, len(self._gears) - 1
            gear = self._box.choose(self._queues.delay_s, self._queues.fill)
            while gear < last and not self._queues.has_room(work.n, deadline_s, gear):
                gear += 1  # before it is refused
            work.gear, work.n_stages = gear, len(self.bundle.gears[gear].stages)
            try:
                self._queues.admit(work, work.n, deadline_s, gear)
            except QueueFull:
                raise Overloaded(self.bundle.name) from None

    def _start(self, work: _Work, images: Images) -> None:
        """Decode, and prepare for the first stage."""
        if work.future.done():
            return
        start_s = self._clock()
        try:
            work.inputs = self._gears[work.gear].executor.inputs(images)
        except Exception as error:
            self._failed(work, error)
            return
        work.prepare_s += self._clock() - start_s
        self._prepare(work, 0, np.arange(work.n))

    def _prepare(self, work: _Work, stage: int, rows: Rows) -> None:
        """Prepare samples for a stage, and queue them."""
        if work.future.done() or work.inputs is None:
            return
        start_s = self._clock()
        try:
            which = self._gears[work.gear].which[stage]
            work.keep(which, rows, work.inputs.prepared(which, rows))
        except Exception as error:
            self._failed(work, error)
            return
        work.prepare_s += self._clock() - start_s
        with self._changed:
            self._queues.put(work, stage, rows)
            self._changed.notify()

    def _failed(self, work: _Work, error: Exception) -> None:
        _soon([work], lambda: _fail(work, error))

    def _loop(self) -> None:
        while (batch := self._next()) is not None:
            if isinstance(batch, _Work):
                self._look_again(batch)
                continue
            try:
                self._run(batch)
            except Exception as error:
                for work in {part.ticket for part in batch.parts}:
                    self._failed(work, error)

    def _next(self) -> Batch[_Work] | _Work | None:
        """Wait for a batch, or something to look at again; None when it is closed and all is answered."""
        with self._changed:
            while True:
                for work in self._queues.expire():
                    self._failed(work, DeadlinePassed(self.bundle.name))
                batch = self._queues.take()
                if batch is not None:
                    return batch
                if self._closing and not self._queues.n_requests:
                    return None
                if self._rechecks and not self._closing:
                    return self._rechecks.popleft()
                self._changed.wait(self._queues.wait_s())

    def _run(self, batch: Batch[_Work]) -> None:
        """Run a batch, and hand every sample out or on."""
        stage, start_s, gear = batch.stage, self._clock(), self._gears[batch.gear]
        tensors = [part.ticket.tensor(gear.which[stage], part.rows) for part in batch.parts]
        probs = gear.executor.run_stage(stage, tensors[0] if len(tensors) == 1 else np.concatenate(tensors))
        run_s = self._clock() - start_s
        total = probs
        if stage > 0:
            total = np.concatenate([part.ticket.totals(part.rows) for part in batch.parts])
        step = run_step(gear.cascade, stage, total, probs)
        with self._changed:
            self._queues.ran(int(step.leaves.sum()), run_s)
        self._report(BatchReport(stage, len(probs), run_s, step.confidence, step.leaves, batch.gear))
        finite = np.isfinite(step.mean.sum(axis=1))
        done: list[_Work] = []
        start = 0
        for part in batch.parts:
            rows = slice(start, start := start + len(part.rows))
            work = part.ticket
            work.queue_s += start_s - part.since_s
            work.run_s += run_s
            if not finite[rows].all():
                self._failed(work, gear.executor.not_finite(stage, int(part.rows[~finite[rows]][0])))
                continue
            self._hand_on(part, stage, _rows_of(step, rows))
            if work.n_left == work.n:
                done.append(work)
        if self._recheck.share:
            self._rechecks += (work for work in done if self._recheck.draw() < self._recheck.share)
        if done:
            _soon(done, lambda: _answer(done, gear.macs))

    def _look_again(self, work: _Work) -> None:
        """Run one sample of a request through all stages, and report whether the answer stays."""
        gear = self._gears[work.gear]
        assert work.inputs is not None and work.probs is not None and work.exit_stage is not None
        inputs, row = work.inputs, np.array([int(self._recheck.draw() * work.n)])
        had = gear.which[: int(work.exit_stage[row[0]]) + 1]

        def probs(stage: int, _rows: Rows) -> NDArray[np.float32]:
            which = gear.which[stage]
            tensor = work.tensors[which][row] if which in had else inputs.prepared(which, row)
            return gear.executor.run_stage(stage, tensor)

        try:
            answers = run_cascade(gear.whole, probs, 1, [0] * len(gear.which))
        except Exception:  # whoever asked has the answer
            return
        self._recheck.report(work.gear, int(answers.label[0]) == int(work.probs[row[0]].argmax()))

    def _hand_on(self, part: Part[_Work], stage: int, step: Step) -> None:
        """Queue the survivors for the next stage, once they are prepared for it."""
        work = part.ticket
        staying = work.advance(stage, part.rows, step)
        if not len(staying):
            return
        which = self._gears[work.gear].which
        with self._changed:
            if which[stage + 1] in which[: stage + 1]:  # which every sample has had that was in this stage
                self._queues.put(work, stage + 1, staying)
                return
            self._queues.announce(work, stage + 1, len(staying))
        self._pool.submit(self._prepare, work, stage + 1, staying)


def _rows_of(step: Step, rows: slice) -> Step:
    return Step(step.total[rows], step.mean[rows], step.confidence[rows], step.leaves[rows])


def _soon(works: Sequence[_Work], call: Callable[[], object]) -> None:
    """Call in the event loop of the works, all of which have the same one."""
    loop = works[0].future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _fail(work: _Work, error: Exception) -> None:
    if not work.future.done():
        work.future.set_exception(error)


def _answer(works: Sequence[_Work], macs: NDArray[np.int64]) -> None:
    for work in works:
        if not work.future.done():
            work.future.set_result(work.outcome(macs))
