"""Measuring: the time of sessions, and what a cascade really executes on real images."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from encas.bundle import Bundle
from encas.cascade import exit_fractions
from encas.data import LabelledImages
from encas.errors import InvalidInput, require
from encas.files import read_npy
from encas.measurement import BatchTiming, CascadeMeasurement, Machine, Measurements
from encas.pool import check_labels
from encas.runtime.executor import CascadeExecutor
from encas.runtime.images import AnyImage
from encas.runtime.machine import cpu_name, cuda_devices, energy_j, peak_bytes, usable_cores
from encas.runtime.members import Images, Subject, take, time_members, turns
from encas.runtime.stopwatch import DEFAULT_STOPWATCH, Stopwatch

DEFAULT_BATCHES = (1, 8, 32)
_COUNTING_BATCH = 32
Advance = Callable[[int, str], None]  # what was done since the last call, and a few words about it


def _silent(_done: int, _words: str) -> None:
    """Show no progress."""


def this_machine(provider: str) -> Machine:
    """Identify the machine for a provider."""
    cpu, cores = cpu_name(), usable_cores()
    gpu = next(iter(cuda_devices()), None) if provider != "cpu" else None
    return Machine(
        name=gpu or f"{cpu}, {cores} core{'s' if cores > 1 else ''}",
        cpu=cpu,
        cores=cores,
        gpu=gpu,
        onnxruntime=require("onnxruntime", "cpu").__version__,
    )


def measure_members(
    subjects: Mapping[str, Subject],
    images: Images | None,
    batches: Sequence[int] = DEFAULT_BATCHES,
    *,
    stopwatch: Stopwatch = DEFAULT_STOPWATCH,
    advance: Advance = _silent,
) -> Measurements:
    """Time networks at each batch size, all of them in turns.

    Args:
        subjects: By the names of the members; all on one provider.
        images: n >= 1, repeated to fill a batch; None times the networks on noise, and no preparing.
        batches: Sizes.
        stopwatch: Repeats, and a clock.
        advance: Called once for each batch size, with the number of networks.
    """
    providers = {subject.runner.provider for subject in subjects.values()}
    if len(providers) != 1:
        raise ValueError(f"sessions on one provider are needed, got {sorted(providers)}")
    provider = providers.pop()
    timed: dict[str, list[BatchTiming]] = {name: [] for name in subjects}
    for batch in _checked_batches(batches):
        for name, entry in time_members(subjects, images, batch, stopwatch).items():
            timed[name].append(entry)
        advance(len(subjects), f"batch {batch}")
    members = {name: tuple(entries) for name, entries in timed.items()}
    precisions = {name: subject.precision for name, subject in subjects.items()}
    usual = next(iter(precisions.values())) if len(set(precisions.values())) == 1 else "fp32"
    return Measurements(
        machine=this_machine(provider),
        provider=provider,
        precision=usual,
        precisions={name: precision for name, precision in precisions.items() if precision != usual},
        members=members,
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
    before_j = energy_j() if executor.provider != "cpu" else None
    rows, exits, right, macs = np.zeros(n_stages, np.int64), [], 0, 0
    for part in _parts(len(images), _COUNTING_BATCH):
        answers, trace = executor.run_traced(take(images, part))
        rows += trace.rows
        macs += trace.macs
        exits.append(answers.exit_stage)
        right += int(np.sum(answers.label == labels[part])) if labels is not None else 0
        advance(len(part), "counting")
    after_j = energy_j() if before_j is not None else None
    used_j = after_j - before_j if before_j is not None and after_j is not None else None
    timed = []
    for batch in sizes:
        timed.append(_time_cascade(executor, images, batch, stopwatch))
        advance(1, f"batch {batch}")
    peak = peak_bytes()  # before the members are timed by themselves
    return CascadeMeasurement(
        bundle=executor.bundle.name,
        n=len(images),
        macs=macs / len(images),
        stage_rows=tuple(int(n) for n in rows),
        exit_fractions=exit_fractions(np.concatenate(exits), n_stages),
        accuracy=None if labels is None else right / len(images),
        batches=tuple(timed),
        peak_bytes=peak,
        energy_j=None if used_j is None else used_j / len(images),
        members=_members_of(executor, images, sizes, stopwatch, advance),
    )


def measuring_steps(executor: CascadeExecutor, n_images: int, batches: Sequence[int]) -> int:
    """Count what `measure_bundle` reports as done: images, and one timing per batch size and network."""
    return n_images + len(set(batches)) * (1 + len(executor.runners))


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
    places = turns(len(images), batch)
    timing = stopwatch.time({"cascade": lambda: executor.run(take(images, next(places)))})
    return BatchTiming(batch=batch, latency_s=timing["cascade"])


def _members_of(
    executor: CascadeExecutor,
    images: Images,
    batches: Sequence[int],
    stopwatch: Stopwatch,
    advance: Advance,
) -> tuple[Measurements, ...]:
    """Time the members of a bundle by themselves, those of one precision together."""
    found = []
    members = {member.name: member for member in executor.bundle.stage_members}
    for precision in sorted({member.precision for member in members.values()}):
        subjects = {
            name: Subject(executor.runners[name], member.preprocess, precision)
            for name, member in members.items()
            if member.precision == precision
        }
        found.append(measure_members(subjects, images, batches, stopwatch=stopwatch, advance=advance))
    return tuple(found)


def _checked_batches(batches: Sequence[int]) -> list[int]:
    if not batches or min(batches) < 1:
        raise InvalidInput(f"batch sizes must be positive whole numbers, got {list(batches)}")
    return sorted(set(batches))


def _parts(n: int, size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))
