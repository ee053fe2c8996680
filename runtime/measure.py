"""Measuring: the time of sessions, and what a cascade really executes on real images."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.bundle import Bundle
from encas.cascade import exit_fractions
from encas.data import LabelledImages
from encas.errors import InvalidInput, require
from encas.files import read_npy
from encas.measurement import BatchTiming, CascadeMeasurement, Machine, Measurements, Timing
from encas.pool import check_labels
from encas.runtime.executor import CascadeExecutor
from encas.runtime.images import AnyImage, decode
from encas.runtime.machine import cpu_name, cuda_devices, usable_cores
from encas.runtime.preprocess import Tensor, prepare_batch
from encas.runtime.session import Session

DEFAULT_BATCHES = (1, 8, 32)
_COUNTING_BATCH = 32
Images = Sequence[AnyImage] | NDArray[np.uint8]
Advance = Callable[[int, str], None]  # what was done since the last call, and a few words about it


@dataclass(frozen=True)
class Stopwatch:
    """How often calls are repeated, and the clock that times them."""

    warm_up: int = 3
    min_repeats: int = 5
    max_repeats: int = 50
    budget_s: float = 1.0  # for each call; no further round begins once it is spent
    clock: Callable[[], float] = time.perf_counter

    def time(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
        """Time several calls in turns, so that a machine that slows down slows all of them alike."""
        for call in calls.values():
            for _ in range(self.warm_up):
                call()
        taken_s: dict[str, list[float]] = {name: [] for name in calls}
        begun_s = self.clock()
        for n_rounds in range(self.max_repeats):
            if n_rounds >= self.min_repeats and self.clock() - begun_s > self.budget_s * len(calls):
                break
            for name, call in calls.items():
                start_s = self.clock()
                call()
                taken_s[name].append(self.clock() - start_s)
        return {name: _timing(times) for name, times in taken_s.items()}


DEFAULT_STOPWATCH = Stopwatch()


def _silent(_done: int, _words: str) -> None:
    """Show no progress."""


def this_machine(provider: str) -> Machine:
    """Identify the machine for a provider."""
    cpu, cores = cpu_name(), usable_cores()
    gpu = next(iter(cuda_devices()), None) if provider == "cuda" else None
    return Machine(
        name=gpu or f"{cpu}, {cores} core{'s' if cores > 1 else ''}",
        cpu=cpu,
        cores=cores,
        gpu=gpu,
        onnxruntime=require("onnxruntime", "cpu").__version__,
    )


def measure_members(
    sessions: Mapping[str, Session],
    samples: Mapping[str, Tensor],
    batches: Sequence[int] = DEFAULT_BATCHES,
    *,
    precision: str = "fp32",
    stopwatch: Stopwatch = DEFAULT_STOPWATCH,
    advance: Advance = _silent,
) -> Measurements:
    """Time networks at each batch size, all of them in turns.

    Args:
        sessions: By the names of the members; all on one provider.
        samples: For each name a few prepared samples (n, channels, h, w), n >= 1, repeated to fill a batch.
        batches: Sizes.
        precision: Of the networks' weights.
        stopwatch: Repeats, and a clock.
        advance: Called once for each batch size, with the number of networks.
    """
    providers = {session.provider for session in sessions.values()}
    if len(providers) != 1:
        raise ValueError(f"sessions on one provider are needed, got {sorted(providers)}")
    provider = providers.pop()
    timed: dict[str, list[BatchTiming]] = {name: [] for name in sessions}
    for batch in _checked_batches(batches):
        calls = {name: _call(session, samples[name], batch) for name, session in sessions.items()}
        for name, timing in stopwatch.time(calls).items():
            timed[name].append(BatchTiming(batch=batch, latency_s=timing))
        advance(len(sessions), f"batch {batch}")
    members = {name: tuple(entries) for name, entries in timed.items()}
    return Measurements(
        machine=this_machine(provider), provider=provider, precision=precision, members=members
    )


def measure_bundle(
    executor: CascadeExecutor,
    images: Images,
    batches: Sequence[int] = DEFAULT_BATCHES,
    *,
    labels: NDArray[np.int64] | None = None,
    stopwatch: Stopwatch = DEFAULT_STOPWATCH,
    advance: Advance = _silent,
) -> CascadeMeasurement:
    """Measure a bundle on real images: MACs counted from the rows that ran, exits, and time.

    Args:
        executor: The open bundle.
        images: n images (encoded, files or pixels); their decoding is part of the time. What leaves early
            depends on the images, so each timed batch takes the next ones in turn.
        batches: Sizes.
        labels: (n,) true classes, for the accuracy.
        stopwatch: Repeats, and a clock.
        advance: Called with what was done of `measuring_steps`.

    Raises:
        InvalidInput: No images, or one that cannot be read.
    """
    if len(images) == 0:
        raise InvalidInput("images: there are none to measure on")
    sizes = _checked_batches(batches)
    n_stages = len(executor.bundle.cascade.stages)
    rows, exits, right, macs = np.zeros(n_stages, np.int64), [], 0, 0
    for part in _parts(len(images), _COUNTING_BATCH):
        answers, trace = executor.run_traced(_take(images, part))
        rows += trace.rows
        macs += trace.macs
        exits.append(answers.exit_stage)
        right += int(np.sum(answers.label == labels[part])) if labels is not None else 0
        advance(len(part), "counting")
    timed = []
    for batch in sizes:
        timed.append(_time_cascade(executor, images, batch, stopwatch))
        advance(1, f"batch {batch}")
    return CascadeMeasurement(
        bundle=executor.bundle.name,
        n=len(images),
        macs=macs / len(images),
        stage_rows=tuple(int(n) for n in rows),
        exit_fractions=exit_fractions(np.concatenate(exits), n_stages),
        accuracy=None if labels is None else right / len(images),
        batches=tuple(timed),
        members=_members_of(executor, images, sizes, stopwatch, advance),
    )


def measuring_steps(executor: CascadeExecutor, n_images: int, batches: Sequence[int]) -> int:
    """Count what `measure_bundle` reports as done: images, and one timing per batch size and network."""
    return n_images + len(set(batches)) * (1 + len(executor.sessions))


def golden_images(bundle: Bundle) -> list[AnyImage]:
    """Return the real inputs that came with a bundle; empty if there are none."""
    files = [bundle.path / sample.file for sample in bundle.file.golden]
    return [read_npy(file) if file.suffix == ".npy" else file for file in files]


def bundle_labels(data: LabelledImages, bundle: Bundle, place: str) -> NDArray[np.int64]:
    """(n,) labels of some data as the bundle counts its classes: by name where the names are known to it.

    Raises:
        InvalidInput: The data has classes that the bundle does not answer.
    """
    known = {label: index for index, label in enumerate(bundle.labels)}
    if data.classes is not None and len(known) == len(bundle.labels) and known.keys() >= set(data.classes):
        labels = check_labels(data.labels, len(data.classes), place)
        return np.array([known[name] for name in data.classes], np.int64)[labels]
    if data.classes is not None and len(data.classes) != len(bundle.labels):
        unknown = next((name for name in data.classes if name not in known), data.classes[0])
        raise InvalidInput(
            f"{place}: has {len(data.classes)} classes, the bundle answers {len(bundle.labels)} and none of "
            f"them is called '{unknown}'; name the folders as in {bundle.path / 'labels.json'}"
        )
    return check_labels(data.labels, len(bundle.labels), place)


def _time_cascade(executor: CascadeExecutor, images: Images, batch: int, stopwatch: Stopwatch) -> BatchTiming:
    turns = _turns(len(images), batch)
    timing = stopwatch.time({"cascade": lambda: executor.run(_take(images, next(turns)))})
    return BatchTiming(batch=batch, latency_s=timing["cascade"])


def _members_of(
    executor: CascadeExecutor,
    images: Images,
    batches: Sequence[int],
    stopwatch: Stopwatch,
    advance: Advance,
) -> tuple[Measurements, ...]:
    """Time the members of a bundle by themselves, those of one precision together."""
    some = _take(images, np.arange(min(len(images), max(batches))))
    decoded = [decode(image, f"image {row}") for row, image in enumerate(some)]
    found = []
    members = {member.name: member for member in executor.bundle.stage_members}
    for precision in sorted({member.precision for member in members.values()}):
        names = [name for name, member in members.items() if member.precision == precision]
        found.append(
            measure_members(
                {name: executor.sessions[name] for name in names},
                {name: prepare_batch(decoded, members[name].preprocess) for name in names},
                batches,
                precision=precision,
                stopwatch=stopwatch,
                advance=advance,
            )
        )
    return tuple(found)


def _timing(taken_s: list[float]) -> Timing:
    # A clock may be too coarse for a tiny network; zero would read as "costs nothing".
    median, p95 = (max(float(value), 1e-9) for value in np.percentile(taken_s, (50, 95)))
    return Timing(median=median, p95=p95, n=len(taken_s))


def _call(session: Session, samples: Tensor, batch: int) -> Callable[[], object]:
    tensor = samples[np.arange(batch) % len(samples)]
    return lambda: session.run(tensor)


def _checked_batches(batches: Sequence[int]) -> list[int]:
    if not batches or min(batches) < 1:
        raise InvalidInput(f"batch sizes must be positive whole numbers, got {list(batches)}")
    return sorted(set(batches))


def _parts(n: int, size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))


def _turns(n: int, batch: int) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of one batch after the other, from the start again at the end."""
    start = 0
    while True:
        yield np.arange(start, start + batch) % n
        start = (start + batch) % n


def _take(images: Images, rows: NDArray[np.intp]) -> Any:
    return images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows]
