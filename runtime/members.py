"""The time of networks as cascades spend it: each call after another network's, and all that goes with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade, Rows, Stage, run_cascade
from encas.measurement import BatchTiming
from encas.member import Precision
from encas.preprocess import Preprocess
from encas.runtime.buckets import Buckets
from encas.runtime.images import AnyImage, decode
from encas.runtime.inputs import Inputs, Threads
from encas.runtime.machine import energy_j
from encas.runtime.preprocess import Tensor
from encas.runtime.session import Session
from encas.runtime.stopwatch import Stopwatch, timing

Images = Sequence[AnyImage] | NDArray[np.uint8]


@dataclass(frozen=True)
class Subject:
    """A network to be timed."""

    runner: Session | Buckets  # as the executor would run it
    preprocess: Preprocess
    precision: Precision = "fp32"
    memory_bytes: Mapping[int, int] = field(default_factory=dict)  # by batch size, where it is known


def time_members(
    subjects: Mapping[str, Subject], images: Images | None, batch: int, stopwatch: Stopwatch
) -> dict[str, BatchTiming]:
    """Time networks at one batch size, all of them in turns.

    A network that was run a moment ago finds its weights in the processor's caches and is faster; in a
    cascade another one has usually run since, as here. Where none has, `gain_s` is saved.

    Args:
        subjects: By the names of the members.
        images: n >= 1, repeated to fill a batch; None times the networks on noise, and no preparing.
        batch: Samples of a call.
        stopwatch: Repeats, and a clock.
    """
    threads = Threads()
    calls: dict[str, Callable[[], Sequence[float]]] = {
        name: _call(subject, images, batch, threads, stopwatch.clock) for name, subject in subjects.items()
    }
    found = stopwatch.parts(calls)
    run_s, overhead_s, prepare_s, gain_s = (
        {name: rows[:, part] for name, rows in found.items()} for part in range(4)
    )
    specs = {name: subject.preprocess for name, subject in subjects.items()}
    decode_s = 0.0 if images is None else _decode_s(images, batch, stopwatch)
    threads.close()
    timed = {}
    for name in subjects:
        # Members with the same preprocessing share what it takes.
        same = np.concatenate([prepare_s[other] for other in subjects if specs[other] == specs[name]])
        timed[name] = BatchTiming(
            batch=batch,
            latency_s=timing(run_s[name]),
            overhead_s=float(np.median(overhead_s[name])),
            prepare_s=max(0.0, float(np.median(same)) - decode_s),
            decode_s=decode_s,
            gain_s=max(0.0, float(np.median(gain_s[name]))),
            memory_bytes=subjects[name].memory_bytes.get(batch),
            energy_j=_energy_j(subjects[name], batch, stopwatch.clock),
        )
    return timed


def take(images: Images, rows: NDArray[np.intp]) -> Any:
    """Some of the images, in the form in which all of them came."""
    return images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows]


def turns(n: int, batch: int) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of one batch after the other, from the start again at the end."""
    start = 0
    while True:
        yield np.arange(start, start + batch) % n
        start = (start + batch) % n


def _call(
    subject: Subject, images: Images | None, batch: int, threads: Threads, clock: Callable[[], float]
) -> Callable[[], tuple[float, float, float, float]]:
    """Make a call that answers two batches as a cascade of one stage does.

    It times run, overhead and preparing of the first, and how much less the second took.
    """
    cascade, rows = Cascade(stages=(Stage(member="alone"),)), np.arange(batch)
    spec = subject.preprocess
    noise = np.random.default_rng(0).standard_normal((batch, *spec.shape), np.float32)
    places = turns(1 if images is None else len(images), batch)

    def answer() -> tuple[float, float, float]:
        part = None if images is None else take(images, next(places))
        start_s = clock()
        inputs = Inputs.ready(spec, noise, threads) if part is None else Inputs([spec], part, threads)
        run = _runnable(subject.runner, inputs.tensor(0, rows), rows)
        prepared_s = clock()
        run_s = 0.0

        def probs(_stage: int, _rows: Rows) -> NDArray[np.float32]:
            nonlocal run_s
            begun_s = clock()
            answer = run()
            run_s = clock() - begun_s
            return answer

        run_cascade(cascade, probs, batch, [0])
        whole_s = clock() - prepared_s
        return run_s, max(0.0, whole_s - run_s), prepared_s - start_s if part is not None else 0.0

    def call() -> tuple[float, float, float, float]:
        first, again = answer(), answer()
        return *first, sum(first) - sum(again)

    return call


def _runnable(runner: Session | Buckets, tensor: Tensor, rows: Rows) -> Callable[[], NDArray[np.float32]]:
    """Bring prepared samples to where the executor would have them, and return what runs them."""
    if isinstance(runner, Buckets):
        source = runner.upload(tensor)
        return lambda: runner.run_rows(source, rows)
    return lambda: runner.run(tensor)


def _energy_j(subject: Subject, batch: int, clock: Callable[[], float]) -> float | None:
    """Energy per sample while a network runs again and again; None where the device does not tell."""
    before_j = energy_j() if subject.runner.provider != "cpu" else None
    if before_j is None:
        return None
    rows = np.arange(batch)
    noise = np.random.default_rng(0).standard_normal((batch, *subject.preprocess.shape), np.float32)
    run, n_runs, end_s = _runnable(subject.runner, noise, rows), 0, clock() + _ENERGY_S
    while clock() < end_s:
        run()
        n_runs += 1
    after_j = energy_j()
    return None if after_j is None else (after_j - before_j) / (n_runs * batch)


def _decode_s(images: Images, batch: int, stopwatch: Stopwatch) -> float:
    """Median time of decoding a batch; arrays need none."""
    if isinstance(images, np.ndarray) or all(isinstance(image, np.ndarray) for image in images):
        return 0.0
    threads, places = Threads(), turns(len(images), batch)

    def call() -> None:
        part = take(images, next(places))

        def work(some: range) -> None:
            for at in some:
                decode(part[at], f"image {at}")

        threads.for_parts(batch, _ANY_SIZE, work)

    found = stopwatch.time({"decode": call})["decode"].median
    threads.close()
    return found


_ENERGY_S = 0.5  # the driver's meter moves some ten times a second
_ANY_SIZE = 2**18  # numbers of a tensor: enough for threads to share the work, as they do for photographs
