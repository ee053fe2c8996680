"""Searching by MACs against searching by measured time: the same budget, both fronts timed on held images.

    python benchmarks/runtime/objectives.py
    python benchmarks/runtime/objectives.py --clock processor --threads 1     on a machine that has other work

Members are measured as `encas pool measure` does it, then each pool (CIFAR-10, photographs) is searched
twice on one half of its images. For several accuracies the cheapest cascade of each front that reaches it
is chosen, still on that half. Both are then timed on images of the other half, in turns, and their accuracy
there is counted. A ratio above 1 is what choosing by MACs costs. A table and a picture; about four minutes.
"""

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot, which would look for a screen
import numpy as np
import onnxruntime
from matplotlib import pyplot
from prediction import CLOCKS, whole_bundle
from real_pools import DATA, POOLS, RealPool

from encas.cascade import Cascade
from encas.evaluation import evaluate
from encas.export import measure_pool
from encas.front import Front
from encas.runtime import CascadeExecutor
from encas.runtime.machine import usable_cores
from encas.runtime.stopwatch import Stopwatch
from encas.search import search


@dataclass(frozen=True)
class Choice:
    """What was chosen for one accuracy from one front, and what it does on the held half."""

    cascade: Cascade
    accuracy: float
    macs: float
    time_s: float  # per image


def levels(by_macs: Front, by_time: Front, n: int) -> list[float]:
    """Accuracies that both fronts reach, from the middle of what they span to the best."""
    accuracies = [
        [c.cascade.evaluated["val"].accuracy for c in front.candidates] for front in (by_macs, by_time)
    ]
    best, least = min(map(max, accuracies)), max(map(min, accuracies))
    return np.linspace((best + least) / 2, best, n).tolist()


def times_s(
    bundle: object, cascades: list[Cascade], images: object, options: argparse.Namespace
) -> list[float]:
    """Seconds per image of each cascade: the median over rounds, in which they take turns."""
    clock, batch = CLOCKS[options.clock], options.batch
    executors = [CascadeExecutor(replace(bundle, cascade=cascade), "cpu") for cascade in cascades]
    for executor in executors:
        executor.warm_up(batch)
    taken_s = np.zeros((options.rounds, len(cascades)))
    for round_ in taken_s:
        for at, executor in enumerate(executors):
            start_s = clock()
            for first in range(0, len(images), batch):
                executor.run(images[first : first + batch])
            round_[at] = clock() - start_s
    for executor in executors:
        executor.close()
    return (np.median(taken_s, axis=0) / len(images)).tolist()


def compare(
    name: str, real: RealPool, folder: Path, options: argparse.Namespace
) -> list[tuple[Choice, Choice]]:
    """Search twice, choose, and time what was chosen: pairs of a choice by MACs and one by time."""
    stopwatch = Stopwatch(max_repeats=50, budget_s=1.0, clock=CLOCKS[options.clock])
    pool, _ = measure_pool(real.pool, provider="cpu", allow_code=True, stopwatch=stopwatch)
    by_macs, by_time = (
        search(
            pool, objective=objective, evaluations=options.evaluations, seed=1, out=folder / f"{name}-{kind}"
        )
        for kind, objective in (("macs", "macs"), ("time", f"latency:cpu:{options.batch}"))
    )
    chosen = [
        front.pick(min_accuracy=level - 1e-12)
        for level in levels(by_macs, by_time, options.levels)
        for front in (by_macs, by_time)
    ]
    distinct = list({str(cascade): cascade for cascade in chosen}.values())
    bundle = whole_bundle(real, folder / f"{name}-all")
    held = real.images[1::2][: options.images]
    timed = dict(zip(map(str, distinct), times_s(bundle, distinct, held, options), strict=True))
    choices = []
    for cascade in chosen:
        found = evaluate(cascade, pool, "test")
        choices.append(Choice(cascade, found.accuracy, found.macs, timed[str(cascade)]))
    return list(zip(choices[::2], choices[1::2], strict=True))


def print_pairs(name: str, pairs: list[tuple[Choice, Choice]]) -> None:
    print(f"\n{name}: by MACs (left) and by time (right), on the held half")
    print(f"{'accuracy':>9}{'MMACs':>9}{'ms':>9}   {'accuracy':>9}{'MMACs':>9}{'ms':>9}{'time ratio':>12}")
    for left, right in pairs:
        sides = [f"{one.accuracy:9.2%}{one.macs / 1e6:9.1f}{1e3 * one.time_s:9.3f}" for one in (left, right)]
        print(f"{'   '.join(sides)}{left.time_s / right.time_s:12.2f}")
    ratios = [left.time_s / right.time_s for left, right in pairs]
    gains = [100 * (right.accuracy - left.accuracy) for left, right in pairs]
    print(
        f"time by MACs / by time: median {np.median(ratios):.2f}, most {max(ratios):.2f}, "
        f"least {min(ratios):.2f}; "
        f"accuracy by time - by MACs: mean {np.mean(gains):+.2f} points"
    )


def draw(found: dict[str, list[tuple[Choice, Choice]]], path: Path) -> None:
    figure, axes = pyplot.subplots(1, len(found), figsize=(5.5 * len(found), 4), squeeze=False)
    for axis, (name, pairs) in zip(axes[0], found.items(), strict=True):
        for side, (label, marker) in enumerate((("searched by MACs", "o"), ("searched by time", "s"))):
            points = sorted((1e3 * pair[side].time_s, 100 * pair[side].accuracy) for pair in pairs)
            axis.plot(*zip(*points, strict=True), marker=marker, label=label)
        axis.set(
            title=name, xlabel="measured ms per image", ylabel="accuracy on the held half, %", xscale="log"
        )
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pools", nargs="+", choices=sorted(POOLS), default=sorted(POOLS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--evaluations", type=int, default=20_000, help="budget of each search")
    parser.add_argument("--levels", type=int, default=8, help="accuracies to choose for")
    parser.add_argument("--images", type=int, default=96, help="held images that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="shared by all sessions")
    parser.add_argument("--folder", type=Path, help="where pools are kept for the next time")
    parser.add_argument("--picture", type=Path, default=Path("objectives.png"))
    options = parser.parse_args()
    onnxruntime.set_global_thread_pool_sizes(options.threads, 1)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.pools:
            found[name] = compare(name, POOLS[name](folder, options.data), Path(temporary), options)
            print_pairs(name, found[name])
    draw(found, options.picture)
    print(f"\nwrote {options.picture}")


if __name__ == "__main__":
    main()
