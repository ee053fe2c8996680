"""Ways to give threads to several sessions of one process: three CIFAR-10 networks in turns, wall time.

    python benchmarks/runtime/threads.py

Every way has a process of its own (a process that shares one pool cannot hold sessions with their own), and
the processes work in turns, round after round, so that a busy machine hits all of them. Under a minute.
"""

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime

from encas.runtime.machine import usable_cores

DATA = Path(__file__).resolve().parents[2] / "../shared/data/cifar10"
NETWORKS = ("resnet20", "resnet44", "resnet56")
SPINNING, STOP = "session.intra_op.allow_spinning", "session.force_spinning_stop"
WAYS = {  # settings of sessions with pools of their own
    "one pool for all": {},
    "own pools, spinning": {},
    "own pools, spinning in run": {STOP: "1"},  # not between runs, when others work
    "own pools, sleeping": {SPINNING: "0"},
    "one thread": {},
}


def open_sessions(way: str, data: Path) -> list[onnxruntime.InferenceSession]:
    """Open the networks in one of the ways."""
    settings = onnxruntime.SessionOptions()
    if way == "one pool for all":
        onnxruntime.set_global_thread_pool_sizes(usable_cores(), 1)
        settings.use_per_session_threads = False
    else:
        settings.intra_op_num_threads = 1 if way == "one thread" else usable_cores()
    for key, value in WAYS[way].items():
        settings.add_session_config_entry(key, value)
    return [onnxruntime.InferenceSession(data / f"onnx/{name}.onnx", settings) for name in NETWORKS]


def work(way: str, data: Path, ask: Connection) -> None:
    """Time all networks in turns whenever asked, until asked for batch 0."""
    sessions = open_sessions(way, data)
    while batch := ask.recv():
        tensor = np.random.default_rng(0).standard_normal((batch, 3, 32, 32), np.float32)
        found = []
        for _ in range(2 + max(2, 16 // batch)):
            start_s = time.perf_counter()
            for session in sessions:
                session.run(None, {"input": tensor})
            found.append(time.perf_counter() - start_s)
        ask.send(found[2:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    pipes = {}
    for way in WAYS:
        pipes[way], theirs = spawn.Pipe()
        spawn.Process(target=work, args=(way, options.data, theirs), daemon=True).start()
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for batch in options.batch:
            for way, pipe in pipes.items():
                pipe.send(batch)
                times.setdefault((way, batch), []).extend(pipe.recv())
    for pipe in pipes.values():
        pipe.send(0)
    print(
        f"{'three networks in turns':26}" + "".join(f"{f'batch {batch}, ms':>16}" for batch in options.batch)
    )
    for way in WAYS:
        row = [f"{1e3 * np.median(times[way, batch]):16.2f}" for batch in options.batch]
        print(f"{way:26}" + "".join(row))


if __name__ == "__main__":
    main()
