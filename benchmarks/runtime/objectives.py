"""Searching by MACs against searching by measured time: the same budget, both fronts timed on held images.

    python benchmarks/runtime/objectives.py
    python benchmarks/runtime/objectives.py --pools variants --batch 32
    python benchmarks/runtime/objectives.py --pools POOL      any pool with val and test, its images at hand

Members are measured as `encas pool measure` does it, then each pool is searched twice on one half of its
images. For several accuracies the cheapest cascade of each front that reaches it is chosen, still on that
half. All are then timed on images of the other half, in turns, and their accuracy there is counted; so are
the single members that come closest: for each cascade the fastest one that is as accurate on the held half.
A table and a picture; about four minutes a pool, without the first time's recording.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot, which would look for a screen
import numpy as np
import onnxruntime
from matplotlib import pyplot
from prediction import CLOCKS, bundle_of
from real_pools import DATA, POOLS, RealPool, recorded

from encas.bundle import Bundle
from encas.cascade import Cascade, Stage
from encas.cost import Objective, cost_model
from encas.evaluation import evaluate
from encas.export import measure_pool
from encas.front import Front
from encas.pool import Pool
from encas.runtime import CascadeExecutor
from encas.runtime.machine import usable_cores
from encas.runtime.stopwatch import Stopwatch
from encas.search import search


@dataclass(frozen=True)
class Choice:
    """A cascade, or a single member, and what it does on the held half."""

    cascade: Cascade
    accuracy: float
    macs: float
    time_s: float  # per image


@dataclass(frozen=True)
class Choices:
    """What was chosen from the two fronts for the same accuracies, and single members."""

    by_macs: list[Choice]
    by_time: list[Choice]
    singles: list[Choice]


def levels(by_macs: Front, by_time: Front, n: int) -> list[float]:
    """Accuracies that both fronts reach, from the middle of what they span to the best."""
    accuracies = [
        [c.cascade.evaluated["val"].accuracy for c in front.candidates] for front in (by_macs, by_time)
    ]
    best, least = min(map(max, accuracies)), max(map(min, accuracies))
    return np.linspace((best + least) / 2, best, n).tolist()


def times_s(
    bundle: Bundle, cascades: list[Cascade], images: object, options: argparse.Namespace
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


def fastest_singles(pool: Pool, cascades: Sequence[Cascade], objective: Objective) -> list[Cascade]:
    """For each cascade the member that the measured table calls fastest of those as accurate when held."""
    costs = cost_model(pool.file.members, objective, pool.split("test").n).singles
    singles = [Cascade(stages=(Stage(member=name),)) for name in pool.names]
    accuracies = np.array([evaluate(single, pool, "test").accuracy for single in singles])
    found = {}
    for cascade in cascades:
        (fitting,) = np.nonzero(accuracies >= evaluate(cascade, pool, "test").accuracy)
        if len(fitting):
            single = singles[fitting[costs[fitting].argmin()]]
            found[str(single)] = single
    return list(found.values())


def compare(name: str, real: RealPool, folder: Path, options: argparse.Namespace) -> Choices:
    """Search twice, choose, and time what was chosen."""
    stopwatch = Stopwatch(max_repeats=50, budget_s=options.seconds, clock=CLOCKS[options.clock])
    pool, _ = measure_pool(real.pool, provider="cpu", allow_code=True, stopwatch=stopwatch)
    by_time = Objective("latency", "cpu", options.batch)
    fronts = [
        search(
            pool,
            objective=str(objective),
            evaluations=options.evaluations,
            seed=1,
            report_fraction=0,
            out=folder / f"{name}-{objective.kind}",
        )
        for objective in (Objective("macs"), by_time)
    ]
    chosen = [
        [front.pick(min_accuracy=level - 1e-12) for level in levels(*fronts, options.levels)]
        for front in fronts
    ]
    chosen.append(fastest_singles(pool, [*chosen[0], *chosen[1]], by_time))
    distinct = {str(cascade): cascade for some in chosen for cascade in some}
    names = sorted({name for cascade in distinct.values() for name in cascade.member_names})
    bundle = bundle_of(pool, names, folder / f"{name}-bundle")
    seconds = times_s(bundle, list(distinct.values()), real.test[: options.images], options)
    timed = dict(zip(distinct, seconds, strict=True))

    def held(cascade: Cascade) -> Choice:
        found = evaluate(cascade, pool, "test")
        return Choice(cascade, found.accuracy, found.macs, timed[str(cascade)])

    return Choices(*([held(cascade) for cascade in some] for some in chosen))


def most(choices: Sequence[Choice], others: Sequence[Choice]) -> tuple[float, Choice, Choice] | None:
    """The pair with the largest ratio of times in which the other is at least as accurate."""
    pairs = [
        (one.time_s / other.time_s, one, other)
        for one in choices
        for other in others
        if other.accuracy >= one.accuracy
    ]
    return max(pairs, key=lambda pair: pair[0], default=None)


def print_choices(name: str, found: Choices) -> None:
    print(f"\n{name}: by MACs (left) and by time (right), on the held half")
    print(f"{'accuracy':>9}{'MMACs':>9}{'ms':>9}   {'accuracy':>9}{'MMACs':>9}{'ms':>9}{'time ratio':>12}")
    pairs = list(zip(found.by_macs, found.by_time, strict=True))
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
    # Against a choice by MACs: a choice by time that is as accurate. Against singles: any chosen cascade.
    print_most("by MACs", "by time", most(found.by_macs, found.by_time))
    print_most("by time", "by MACs", most(found.by_time, found.by_macs))
    print_singles(found)


def print_most(one: str, other: str, pair: tuple[float, Choice, Choice] | None) -> None:
    if pair is None:
        print(f"no choice {other} is as accurate as one {one}")
        return
    ratio, slow, fast = pair
    print(f"most time {one} for no more accuracy than {other}: {ratio:.2f}x")
    for choice in (slow, fast):
        print(f"   {choice.accuracy:.2%} {1e3 * choice.time_s:8.3f} ms  {choice.cascade}")


def print_singles(found: Choices) -> None:
    """Each cascade by time against the fastest member that is as accurate."""
    print("fastest single member of no less accuracy against the cascade chosen by time:")
    for choice in found.by_time:
        fitting = [single for single in found.singles if single.accuracy >= choice.accuracy]
        if not fitting:
            print(f"   {choice.accuracy:.2%} {1e3 * choice.time_s:8.3f} ms: no member is so accurate")
            continue
        single = min(fitting, key=lambda one: one.time_s)
        print(
            f"   {choice.accuracy:.2%} {1e3 * choice.time_s:8.3f} ms: {single.cascade} "
            f"{single.accuracy:.2%} {1e3 * single.time_s:8.3f} ms, {single.time_s / choice.time_s:.2f}x"
        )


def draw(found: dict[str, Choices], path: Path) -> None:
    figure, axes = pyplot.subplots(1, len(found), figsize=(5.5 * len(found), 4.2), squeeze=False)
    for axis, (name, choices) in zip(axes[0], found.items(), strict=True):
        for label, marker, some in (
            ("searched by MACs", "o-", choices.by_macs),
            ("searched by time", "s-", choices.by_time),
            ("single members", "k^", choices.singles),
        ):
            points = sorted((1e3 * one.time_s, 100 * one.accuracy) for one in some)
            axis.plot(*zip(*points, strict=True), marker, label=label, alpha=0.8)
        axis.set(title=name, xlabel="measured ms per image", ylabel="accuracy on the held half, %")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pools", nargs="+", default=["cifar10", "photographs"], help="or folders of pools")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--evaluations", type=int, default=20_000, help="budget of each search")
    parser.add_argument("--levels", type=int, default=8, help="accuracies to choose for")
    parser.add_argument("--images", type=int, default=96, help="held images that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each member at each batch size")
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
        for given in options.pools:
            real = POOLS[given](folder, options.data) if given in POOLS else recorded(Path(given), folder)
            name = Path(given).name
            found[name] = compare(name, real, Path(temporary), options)
            print_choices(name, found[name])
    draw(found, options.picture)
    print(f"\nwrote {options.picture}")


if __name__ == "__main__":
    main()
