"""Measuring how long the members of a pool take on this machine."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from encas.cluster import Cluster, Need, Node
from encas.data import open_images
from encas.errors import InvalidInput
from encas.export.source import open_network, spec_of
from encas.measurement import Machine, Measurements
from encas.pool import Pool
from encas.runtime import open_session
from encas.runtime.buckets import open_buckets
from encas.runtime.footprint import footprint
from encas.runtime.measure import DEFAULT_BATCHES, measure_members, this_machine
from encas.runtime.members import Images, Subject
from encas.runtime.session import choose_provider
from encas.runtime.stopwatch import DEFAULT_STOPWATCH, Stopwatch

_MOST_IMAGES = 64
Advance = Callable[[int, str], None]  # networks done since the last call, and what was done


@dataclass(frozen=True)
class Timing:
    """What is timed, on whatever machine it is."""

    pool: Pool
    names: tuple[str, ...]  # none: all that the provider is made for
    images: Images | None  # encoded or decoded, n >= 1; None: noise
    batches: tuple[int, ...]
    provider: str | None
    allow_code: bool
    stopwatch: Stopwatch


def measure_pool(
    pool: Pool,
    names: Sequence[str] = (),
    batches: Sequence[int] = DEFAULT_BATCHES,
    *,
    provider: str | None = None,
    allow_code: bool = False,
    stopwatch: Stopwatch = DEFAULT_STOPWATCH,
    advance: Advance = lambda _n, _words: None,
) -> tuple[Pool, Measurements]:
    """Time members, all in turns, and write the times into the pool.

    Where the images of a split are still there, some of them are prepared for each call, and the time of that
    is recorded beside the network's; else the networks run on noise.

    All networks are in memory at the same time: a machine that slows down meanwhile then slows all of them.

    Args:
        pool: Where they were recorded.
        names: Members; by default all that the provider is made for, see `suited`.
        batches: Sizes to time.
        provider: "cpu", "cuda" or "tensorrt"; None takes the first of cuda and cpu that works.
        allow_code: Run the Python functions that `torch:` members name.
        stopwatch: Repeats, and a clock.
        advance: Told of each network that is opened, and of each that is timed at one batch size.

    Raises:
        InvalidInput: A network cannot be opened again, or the provider does not work here.
    """
    found = timed(
        Timing(pool, tuple(names), _images(pool), tuple(batches), provider, allow_code, stopwatch), advance
    )
    return pool.with_latency(found.latencies()), found


def measure_pool_on(
    cluster: Cluster,
    pool: Pool,
    names: Sequence[str] = (),
    batches: Sequence[int] = DEFAULT_BATCHES,
    *,
    provider: str | None = None,
    allow_code: bool = False,
    stopwatch: Stopwatch = DEFAULT_STOPWATCH,
    advance: Advance = lambda _n, _words: None,
) -> tuple[Pool, tuple[Measurements, ...]]:
    """Time members on every kind of machine of a cluster, at the same time, and write it into the pool.

    Of machines that are alike the first is taken, and nothing else of Ray runs there meanwhile. All its times
    are from it alone, the members in turns, as `measure_pool` does it.

    Args:
        cluster: Its machines find the networks' files by the same paths as this one.
        pool: As `measure_pool`, and so the others.
        names: Members.
        batches: Sizes to time.
        provider: Where the networks run; "cuda" and "tensorrt" leave out machines without a GPU.
        allow_code: Run the Python functions that `torch:` members name.
        stopwatch: Repeats, and a clock.
        advance: Told of each machine that is done.

    Returns:
        The pool, and what was measured on each kind of machine.

    Raises:
        EncasError: See `Cluster.run`.
        InvalidInput: As `measure_pool`; no machine has what the provider needs.
    """
    on_gpu = provider not in (None, "cpu")
    nodes = [node for node in cluster.nodes if node.cores and (node.gpus or not on_gpu)]
    if not nodes:
        raise InvalidInput(f"--ray: no machine of the cluster has {'a GPU' if on_gpu else 'a core'} for jobs")
    needs = [Need(node.cores, node.gpus, node.id) for node in nodes]
    kinds = dict(cluster.run(_kind, provider, nodes, needs))
    alike: dict[Machine, int] = {}
    for which in range(len(nodes)):
        alike.setdefault(kinds[which], which)
    chosen = sorted(alike.values())
    there = replace(pool, path=pool.path.absolute())
    timing = Timing(there, tuple(names), _images(there), tuple(batches), provider, allow_code, stopwatch)
    found: dict[int, Measurements] = {}
    for place, measured in cluster.run(
        _timed_there, timing, [nodes[which] for which in chosen], [needs[which] for which in chosen]
    ):
        found[place] = measured
        pool = pool.with_latency(measured.latencies())
        advance(1, measured.machine.name)
    return pool, tuple(found[place] for place in sorted(found))


def timed(timing: Timing, advance: Advance = lambda _n, _words: None) -> Measurements:
    """Time members here; see `measure_pool`."""
    provider, pool = choose_provider(timing.provider), timing.pool
    specs = [
        spec_of(pool.member(name), pool.path, allow_code=timing.allow_code)
        for name in suited(pool, timing.names, provider)
    ]
    subjects: dict[str, Subject] = {}
    with tempfile.TemporaryDirectory() as folder:
        for spec in specs:
            network = open_network(spec)
            file = Path(folder) / f"{spec.member_name}.onnx"
            network.write_onnx(file)
            session, shape = open_session(file, provider), network.preprocess.shape
            subjects[spec.member_name] = Subject(
                session if provider == "cpu" else open_buckets(session, file, shape, pool.n_classes),
                network.preprocess,
                pool.member(spec.member_name).precision,
                footprint(file, shape, pool.n_classes, timing.batches, provider),
            )
            advance(1, f"opened {spec.member_name}")
    return measure_members(
        subjects, timing.images, timing.batches, stopwatch=timing.stopwatch, advance=advance
    )


def _kind(provider: str | None, _node: Node) -> Machine:
    """Be a job: say what machine this is."""
    return this_machine(choose_provider(provider))


def _timed_there(timing: Timing, _node: Node) -> Measurements:
    """Be a job."""
    return timed(timing)


def suited(pool: Pool, names: Sequence[str], provider: str) -> list[str]:
    """Return the members that were named; of all members those that a provider is made for.

    Raises:
        InvalidInput: A member in fp16 was named, which a CPU computes by converting back and forth.
    """
    half = {member.name for member in pool.file.members if member.precision == "fp16"}
    if provider != "cpu":
        return list(dict.fromkeys(names or pool.names))
    named = next((name for name in names if name in half), None)
    if named is not None:
        raise InvalidInput(
            f"{pool.path}: member '{named}' is in fp16, which a CPU computes slower than fp32; measure it "
            "where CUDA works: --provider cuda"
        )
    return list(dict.fromkeys(names or [name for name in pool.names if name not in half]))


def _images(pool: Pool) -> Images | None:
    """Some images of the first split whose images can be read."""
    for split in pool.file.splits.values():
        if split.data is None:
            continue
        try:
            images = open_images(pool.path / split.data.path).rows(split.data.rows)
        except InvalidInput:
            continue
        rows = np.unique(np.linspace(0, len(images) - 1, _MOST_IMAGES).round().astype(np.intp))
        return images.take(rows).images
    return None
