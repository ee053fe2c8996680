"""Measuring how long the members of a pool take on this machine."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from encas.data import open_images
from encas.errors import InvalidInput
from encas.export.source import open_network, spec_of
from encas.measurement import Measurements
from encas.pool import Pool
from encas.runtime import open_session
from encas.runtime.buckets import open_buckets
from encas.runtime.footprint import footprint
from encas.runtime.measure import DEFAULT_BATCHES, measure_members
from encas.runtime.members import Images, Subject
from encas.runtime.session import choose_provider
from encas.runtime.stopwatch import DEFAULT_STOPWATCH, Stopwatch

_MOST_IMAGES = 64
Advance = Callable[[int, str], None]  # networks done since the last call, and what was done


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
    provider = choose_provider(provider)
    specs = [
        spec_of(pool.member(name), pool.path, allow_code=allow_code) for name in suited(pool, names, provider)
    ]
    subjects: dict[str, Subject] = {}
    images = _images(pool)
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
                footprint(file, shape, pool.n_classes, batches, provider),
            )
            advance(1, f"opened {spec.member_name}")
    found = measure_members(subjects, images, batches, stopwatch=stopwatch, advance=advance)
    return pool.with_latency(found.latencies()), found


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
