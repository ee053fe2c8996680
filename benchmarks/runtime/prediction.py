"""Predicted against measured latency of cascades of real networks.

    python benchmarks/runtime/prediction.py
    python benchmarks/runtime/prediction.py --clock processor --threads 1     on a machine that has other work

Members are measured as `encas pool measure` does it. Then cascades with random members and thresholds are run
on random batches of the images that their exits were recorded on. Two pools (CIFAR-10, photographs), 15
cascades each, batches of 1, 8 and 32; about five minutes, half of them for recording and exporting.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from real_pools import DATA, POOLS, RealPool

from encas.bundle import Bundle
from encas.cascade import Cascade, Stage
from encas.cost import Objective, member_times
from encas.evaluation import recorded_answers
from encas.export import export, measure_pool
from encas.latency import batch_time_s, spread_of
from encas.pool import Pool
from encas.runtime import CascadeExecutor
from encas.runtime.machine import usable_cores
from encas.runtime.stopwatch import Stopwatch

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Compared:
    """One cascade at one batch size."""

    pool: str
    cascade: str
    batch: int
    predicted_s: float
    measured_s: float
    predicted_p95_s: float
    measured_p95_s: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1


def random_cascade(pool: Pool, rng: np.random.Generator) -> Cascade:
    """Two to four members by rising MACs, the first leaving neither nothing nor everything to the others."""
    while True:
        names = rng.choice(pool.names, size=rng.integers(2, min(5, len(pool.names) + 1)), replace=False)
        names = sorted(map(str, names), key=lambda name: pool.member(name).macs)
        guards = [float(t) for t in rng.choice(np.arange(20, 50) / 50, size=len(names) - 1)]
        stages = [Stage(member=name, threshold=t) for name, t in zip(names, [*guards, None], strict=True)]
        cascade = Cascade(stages=tuple(stages))
        if 0.02 < np.mean(recorded_answers(cascade, pool, "val").exit_stage > 0) < 0.95:
            return cascade


def bundle_of(pool: Pool, names: Sequence[str], folder: Path) -> Bundle:
    """Members, exported once; cascades are then made of them."""
    stages = [Stage(member=name, threshold=1.0) for name in names]
    stages[-1] = stages[-1].model_copy(update={"threshold": None})
    return export(Cascade(stages=tuple(stages)), pool, folder, allow_code=True, samples=8)


def compare(name: str, real: RealPool, folder: Path, options: argparse.Namespace) -> list[Compared]:
    """Measure the members, then the cascades."""
    clock = CLOCKS[options.clock]
    stopwatch = Stopwatch(max_repeats=options.rounds, budget_s=3.0, clock=clock)
    pool, found = measure_pool(
        real.pool, batches=options.batch, provider="cpu", allow_code=True, stopwatch=stopwatch
    )
    noise = [t.latency_s.noise or 0 for timings in found.members.values() for t in timings]
    print(
        f"{name}: noise of the members' medians {np.median(noise):.1%}, at most {max(noise):.1%}", flush=True
    )
    rng = np.random.default_rng(options.seed)
    bundle = bundle_of(pool, pool.names, folder / f"{name}-bundle")
    images = real.val
    compared = []
    for _ in range(options.cascades):
        cascade = random_cascade(pool, rng)
        members = [pool.member(member) for member in cascade.member_names]
        times, _ = member_times(members, Objective("latency", "cpu"))
        exits = recorded_answers(cascade, pool, "val").exit_stage
        reached = [float(np.mean(exits >= stage)) for stage in range(len(members))]
        with CascadeExecutor(replace(bundle, cascade=cascade), "cpu") as executor:
            executor.warm_up(max(options.batch))
            for batch in options.batch:
                taken_s = []
                begun_s = time.perf_counter()
                while len(taken_s) < 1500 and (
                    len(taken_s) < 8 or time.perf_counter() - begun_s < options.seconds
                ):
                    rows = rng.integers(len(images), size=batch)
                    part = images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows]
                    start_s = clock()
                    executor.run(part)
                    taken_s.append(clock() - start_s)
                spread = spread_of(times, exits, batch, rng)
                compared.append(
                    Compared(
                        pool=name,
                        cascade=str(cascade),
                        batch=batch,
                        predicted_s=batch_time_s(times, reached, batch),
                        measured_s=float(np.mean(taken_s)),
                        predicted_p95_s=spread.p95_s,
                        measured_p95_s=float(np.percentile(taken_s, 95)),
                    )
                )
    return compared


def print_errors(compared: list[Compared]) -> None:
    """One line for each pool and batch size."""
    print(
        f"{'pool':14}{'batch':>6}{'cascades':>10}{'error, median':>15}{'95 %':>8}{'bias':>8}"
        f"{'of p95, median':>16}"
    )
    for name in sorted({one.pool for one in compared}):
        for batch in sorted({one.batch for one in compared}):
            some = [one for one in compared if (one.pool, one.batch) == (name, batch)]
            errors = np.array([one.error for one in some])
            tails = np.array([one.predicted_p95_s / one.measured_p95_s - 1 for one in some])
            median, most = np.percentile(np.abs(errors), (50, 95))
            print(
                f"{name:14}{batch:6}{len(some):10}{median:15.1%}{most:8.1%}{np.median(errors):+8.1%}"
                f"{np.median(np.abs(tails)):16.1%}"
            )
    errors = np.abs([one.error for one in compared])
    print(f"all: median {np.median(errors):.1%}, 95 % {np.percentile(errors, 95):.1%} (wanted: 10 %, 20 %)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pools", nargs="+", choices=sorted(POOLS), default=["cifar10", "photographs"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--cascades", type=int, default=15, help="of each pool")
    parser.add_argument("--rounds", type=int, default=50, help="calls of each member at each batch size")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each cascade at each batch size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="shared by all sessions")
    parser.add_argument("--folder", type=Path, help="where pools are kept for the next time")
    options = parser.parse_args()
    onnxruntime.set_global_thread_pool_sizes(options.threads, 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        compared = []
        for name in options.pools:
            compared += compare(name, POOLS[name](folder, options.data), folder, options)
        for one in compared:
            print(
                f"{one.error:+7.1%}  batch {one.batch:2}  measured {1e3 * one.measured_s:8.3f} ms, "
                f"predicted {1e3 * one.predicted_s:8.3f} ms  {one.cascade}"
            )
        print_errors(compared)


if __name__ == "__main__":
    main()
