"""How much memory a network takes, found in a process of its own: this one's heap has holes that hide it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encas.errors import InvalidInput
from encas.runtime.buckets import open_buckets
from encas.runtime.machine import held_bytes
from encas.runtime.session import PROBE, open_session


def footprint(
    model: Path, shape: tuple[int, int, int], n_outputs: int, batches: Sequence[int], provider: str
) -> dict[int, int]:
    """Bytes that a network, open, with weights and after its first calls, holds by batch size.

    On a CPU the process's own memory; else the device's, with everything that is set aside for buckets.

    Args:
        model: Its ONNX file.
        shape: (c, h, w) of a sample.
        n_outputs: Numbers that it answers per sample.
        batches: Sizes, which are run in rising order.
        provider: "cpu", "cuda" or "tensorrt".

    Returns:
        Nothing where the system does not tell.

    Raises:
        InvalidInput: The process that measured it failed.
    """
    if not batches:
        return {}
    task = [str(model), *map(str, shape), str(n_outputs), provider, *map(str, sorted(set(batches)))]
    done = subprocess.run(
        [sys.executable, "-m", "encas.runtime.footprint", *task], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise InvalidInput(f"{model}: measuring its memory failed: {(done.stderr.splitlines() or ['?'])[-1]}")
    return {int(batch): int(n) for batch, n in json.loads(done.stdout).items()}


def _measured(
    model: Path, shape: tuple[int, int, int], n_outputs: int, batches: Sequence[int], provider: str
) -> dict[int, int]:
    open_session(PROBE, provider)  # the libraries' own memory is not the network's
    samples = np.random.default_rng(0).standard_normal((max(batches), *shape), np.float32)
    before = held_bytes(provider)
    session = open_session(model, provider)
    runner = session if provider == "cpu" else open_buckets(session, model, shape, n_outputs)
    found = {}
    for batch in batches:
        runner.run(samples[:batch])
        held = held_bytes(provider)
        if before is not None and held is not None:
            found[batch] = max(0, held - before)
    return found


if __name__ == "__main__":
    file, channels, height, width, n_classes, where, *sizes = sys.argv[1:]
    sides = int(channels), int(height), int(width)
    print(json.dumps(_measured(Path(file), sides, int(n_classes), [int(n) for n in sizes], where)))  # noqa: T201
