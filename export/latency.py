"""Measuring how long the members of a pool take on this machine."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from encas.export.onnx_network import random_samples
from encas.export.source import open_network, spec_of
from encas.measurement import Measurements
from encas.pool import Pool
from encas.runtime import Session, open_session
from encas.runtime.measure import DEFAULT_BATCHES, DEFAULT_STOPWATCH, Stopwatch, measure_members
from encas.runtime.preprocess import Tensor
from encas.runtime.session import choose_provider

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

    All networks are in memory at the same time: a machine that slows down meanwhile then slows all of them.

    Args:
        pool: Where they were recorded.
        names: Members; all by default.
        batches: Sizes to time.
        provider: "cpu" or "cuda"; None takes the first of cuda and cpu that works.
        allow_code: Run the Python functions that `torch:` members name.
        stopwatch: Repeats, and a clock.
        advance: Told of each network that is opened, and of each that is timed at one batch size.

    Raises:
        InvalidInput: A network cannot be opened again, or the provider does not work here.
    """
    provider = choose_provider(provider)
    specs = [
        spec_of(pool.member(name), pool.path, allow_code=allow_code)
        for name in dict.fromkeys(names or pool.names)
    ]
    sessions: dict[str, Session] = {}
    samples: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for spec in specs:
            network = open_network(spec)
            file = Path(folder) / f"{spec.member_name}.onnx"
            network.write_onnx(file)
            sessions[spec.member_name] = open_session(file, provider)
            samples[spec.member_name] = random_samples(1, network.preprocess)
            advance(1, f"opened {spec.member_name}")
    found = measure_members(sessions, samples, batches, stopwatch=stopwatch, advance=advance)
    return pool.with_latency(found.latencies()), found
