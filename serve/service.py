"""Answering inference requests, whatever protocol they came by."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import encas
from encas.bundle import Bundle
from encas.runtime.machine import usable_cores
from encas.serve.bodies import Bodies
from encas.serve.engine import BatchReport, Engine, Outcome, Recheck, StageExecutor, Times
from encas.serve.limits import Limits
from encas.serve.model import Images, check_top, images_of, outputs_of
from encas.serve.models import Models, Start
from encas.serve.protocol import InferRequest
from encas.serve.refusals import FAILED, OK, ClientGone, Kind, Overloaded, ShuttingDown, kind_of
from encas.serve.tensor import Tensor

# Loads or unloads a model by name.
Control = Callable[[Literal["load", "unload"], str], Awaitable[None]]
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "statistics")


@dataclass(frozen=True)
class Record:
    """One inference request that is over."""

    protocol: str  # rest, grpc
    model: str  # what it was asked for by
    version: str  # what answered; empty if nothing did
    kind: Kind
    start_s: float  # of the epoch
    total_s: float
    n: int = 0
    times: Times | None = None  # of an answer
    exit_stages: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()  # at the exits
    gear: int = 0
    macs: int = 0
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # those that traces travel in


@dataclass(frozen=True)
class Event:
    """Something that people should look at."""

    kind: str  # drift, consistency
    model: str
    version: str
    text: str  # one line
    at_s: float = field(default_factory=time.time)  # of the epoch


class Observer:
    """Is told what happens; this one does nothing."""

    def finished(self, record: Record) -> None:
        """Hear of a request, in the event loop."""

    def ran(self, bundle: Bundle, report: BatchReport) -> None:
        """Hear of a batch, in the thread of an engine."""

    def rechecked(self, bundle: Bundle, gear: int, *, agrees: bool) -> None:
        """Hear of a sample that ran through all stages of its gear, in the thread of an engine."""

    def noticed(self, event: Event) -> None:
        """Hear of an event, in any thread."""


@dataclass(frozen=True)
class Answer:
    """What a request gets."""

    bundle: Bundle
    request: InferRequest
    outputs: Mapping[str, Tensor]
    outcome: Outcome


@dataclass(frozen=True)
class Question:
    """A request whose head has come."""

    protocol: str
    model: str
    version: str | None
    request_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None  # what the client grants


class Service:
    """The models behind both protocols."""

    def __init__(
        self,
        bundles: Sequence[Bundle],
        load: Callable[[Bundle], StageExecutor],
        *,
        limits: Limits | None = None,
        repository: Path | None = None,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
        start: Start | None = None,
    ) -> None:
        """Know the bundles; `models.load_all` opens them.

        Args:
            bundles: Of different names or versions.
            load: Opens a bundle for running; called in a thread.
            limits: By default those that suit one machine.
            repository: Folder of bundles that may be loaded later.
            observers: Told what happens.
            clock: Seconds that only rise.
            start: Finds who answers for a bundle, where that is not an engine of this process.
        """
        self._clock = clock
        self.limits = limits or Limits()
        self.bodies = Bodies(self.limits)
        self.observers = tuple(observers)
        self.draining = False
        self.control: Control = self._control  # of one among several workers: all of them together
        self.n_open = 0  # requests whose head has come, and that have no answer
        # Decoding lets go of the interpreter's lock; the networks have threads of their own.
        self.pool = ThreadPoolExecutor(usable_cores() + 1, thread_name_prefix="encas-prepare")

        def here(bundle: Bundle) -> Engine:
            def report(ran: BatchReport) -> None:
                for observer in self.observers:
                    observer.ran(bundle, ran)

            def rechecked(gear: int, agrees: bool) -> None:
                for observer in self.observers:
                    observer.rechecked(bundle, gear, agrees=agrees)

            stages = self.limits.of(max(len(gear.stages) for gear in bundle.gears))
            policy = self.limits.gears.within(self.limits.request_timeout_s, len(bundle.gears))
            recheck = Recheck(self.limits.recheck_share, rechecked)
            return Engine(load(bundle), stages, self.pool, report, policy=policy, recheck=recheck)

        self.models = Models(bundles, start or here, repository)

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.models.ready and not self.draining

    @property
    def version(self) -> str:
        """Version of the server."""
        return encas.__version__

    async def load(self, name: str) -> None:
        """Serve the newest version that the repository has of a model."""
        await self.control("load", name)

    async def unload(self, name: str) -> None:
        """Serve a model no more."""
        await self.control("unload", name)

    async def _control(self, what: Literal["load", "unload"], name: str) -> None:
        await asyncio.to_thread(self.models.load if what == "load" else self.models.unload, name)

    def notice(self, event: Event) -> None:
        """Tell the observers of an event."""
        for observer in self.observers:
            observer.noticed(event)

    def close(self) -> None:
        """Answer what was accepted, and stop the threads."""
        self.models.close()
        self.pool.shutdown()

    def check(self, model: str, version: str | None) -> Bundle:
        """Refuse early, before the body is read, what could not be answered anyway.

        Raises:
            UnknownModel: It is not there.
            NotReady: It is still loading.
            Overloaded: There is no room.
        """
        engine = self.models.engine(model, version)
        engine.check_room(self.limits.request_timeout_s)
        if self.n_open - self.bodies.n_coming > self.limits.max_requests:
            raise Overloaded("the server")
        return engine.bundle

    async def infer(
        self, question: Question, parse: Callable[[Bundle], InferRequest], *, heavy: bool
    ) -> Answer:
        """Answer a request whose body has come.

        Args:
            question: Who is asked.
            parse: Reads the body.
            heavy: Whether that may take long, and is then not done in the event loop.

        Raises:
            Everything of `Engine.infer`, `parse` and `check`.
        """
        while True:
            engine = self.models.engine(question.model, question.version)
            bundle = engine.bundle

            def read(bundle: Bundle = bundle) -> tuple[InferRequest, Images]:
                request = parse(bundle)
                check_top(request.top)
                return request, images_of(request.input, bundle)

            if heavy:
                request, images = await asyncio.get_running_loop().run_in_executor(self.pool, read)
            else:
                request, images = read()
            timeout_s = min(
                self.limits.request_timeout_s, question.timeout_s or self.limits.request_timeout_s
            )
            try:
                outcome = await engine.infer(images, timeout_s)
            except ShuttingDown:
                # A newer version has taken its place since we looked, or there is none any more.
                if self.models.engine(question.model, question.version) is engine:
                    raise
                continue
            top = request.top.get("probs", 0)
            outputs = outputs_of(outcome.answers, bundle, request.outputs, top, outcome.gear)
            return Answer(bundle, request, outputs, outcome)

    @contextmanager
    def observed(self, question: Question) -> Iterator["Seen"]:
        """Count a request while it is open, and tell the observers how it ended."""
        seen, start_s, wall_s = Seen(), self._clock(), time.time()
        kind = FAILED
        self.n_open += 1
        try:
            yield seen
            kind = OK
        except Exception as error:
            kind = kind_of(error)
            raise
        except asyncio.CancelledError:
            kind = kind_of(ClientGone())
            raise
        finally:
            self.n_open -= 1
            record = _record(question, seen.answer, kind, wall_s, self._clock() - start_s)
            for observer in self.observers:
                observer.finished(record)


@dataclass
class Seen:
    """What came of a request so far."""

    answer: Answer | None = None


def _record(question: Question, answer: Answer | None, kind: Kind, start_s: float, total_s: float) -> Record:
    record = Record(
        question.protocol,
        "" if kind.reason == "unknown_model" else question.model,  # names that anybody can invent
        "",
        kind,
        start_s,
        total_s,
        request_id=question.request_id,
        headers=question.headers,
    )
    if answer is None:
        return record
    answers = answer.outcome.answers
    return replace(
        record,
        version=answer.bundle.file.version,
        n=len(answers),
        times=answer.outcome.times,
        exit_stages=tuple(answers.exit_stage.tolist()),
        confidences=tuple(answers.confidence.tolist()),
        gear=answer.outcome.gear,
        macs=int(answers.macs.sum()),
    )
