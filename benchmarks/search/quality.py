"""How good the fronts are that each algorithm finds: at equal evaluations, and in equal time.

    python benchmarks/search/quality.py run RESULTS POOL ... [--evaluations 20000] [--seeds 10]
    python benchmarks/search/quality.py report RESULTS [--picture fronts.png]
    python benchmarks/search/quality.py grids RESULTS ...

`run` searches split val of each pool, evaluates every front on val and on test, and keeps all points in
RESULTS; what is there is not searched again, so it may be stopped at any time. Pools are copied before;
`synthetic` stands for one of 100 members, 10,000 samples a split and 10 classes (see synthetic.py),
`cifar10` and `photographs` for the recorded outputs of recorded.py, every other sample in val, and
`cifar10-tempered` and `photographs-tempered` for the same with a variant of each member that
`encas pool temper` makes.

In equal time every algorithm gets the seconds that MO-GOMEA without refinement took for the evaluations, in
as many evaluations as it makes in these: the speed is taken from its run with equal evaluations. Seconds are
those of the processor, so that it matters little what else it does.

`report` prints hypervolumes (reference: error 1 and the cost of the dearest member), one-sided Wilcoxon tests
over the seeds with Holm's correction, and what temperatures bring. `grids` tells where the fronts of grids
are not dominated by those of MO-GOMEA: of several RESULTS, as of other budgets, each is compared with each.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter
from moocore import hypervolume
from numpy.typing import NDArray
from recorded import DATA, RECORDED
from scipy.stats import wilcoxon
from synthetic import invented_table, make_pool

from encas import Cascade, Pool
from encas.evaluation import evaluate
from encas.export import temper
from encas.search import search
from encas.search.evaluate import Evaluator
from encas.search.sweep import Table, exits_of

REFINED, PLAIN, NSGA_REFINED = "mo-gomea, refined", "mo-gomea", "nsga2, refined"
# Those without chance in them are run once.
CHANCY = (REFINED, PLAIN, NSGA_REFINED, "nsga2", "nsga3", "mo-gomea-2018", "random", "ensemble")
CERTAIN = ("greedy", "grid-last", "grid-mean")
SPLITS = ("val", "test")
TEMPERED = "-tempered"  # behind the name of a recorded pool: with a variant of each member
MOST_TIMES = 20  # as many evaluations at most in equal time as with equal evaluations
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """The points (error, cost) of a front on each split."""

    pool: str
    algorithm: str
    seed: int
    budget: str  # "evaluations" or "time"
    evaluations: int
    seconds: float
    dearest: float
    points: dict[str, list[tuple[float, float]]]

    @property
    def name(self) -> str:
        return f"{self.pool}-{self.algorithm}-{self.seed}-{self.budget}.json".replace(", ", "-")

    def volume(self, split: str) -> float:
        """Share of the plane up to the reference that the front dominates."""
        scaled = np.array(self.points[split]) / [1.0, self.dearest]
        return float(hypervolume(scaled, ref=(1.0, 1.0)))


def searched(pool: Pool, algorithm: str, seed: int, budget: str, evaluations: int) -> Result:
    started_s = time.process_time()
    front = search(
        pool,
        evaluations=evaluations,
        seed=seed,
        algorithm=algorithm.removesuffix(", refined"),
        refine_thresholds=algorithm.endswith(", refined"),
        report_fraction=0,
    )
    seconds = time.process_time() - started_s
    points = {"val": [(candidate.error, candidate.cost) for candidate in front.candidates]}
    points["test"] = on_test([candidate.cascade for candidate in front.candidates], pool)
    dearest = max(single.cost for single in front.file.singles)
    return Result(pool.path.name, algorithm, seed, budget, evaluations, seconds, dearest, points)


def on_test(cascades: Sequence[Cascade], pool: Pool) -> list[tuple[float, float]]:
    """Error and cost on the test split, as `encas.evaluation.evaluate` has them, for many cascades."""
    members = pool.members_with("test")
    macs = np.array([member.macs for member in members], np.float64)
    evaluator = Evaluator.open(pool, "test", members, macs, max_stages=5)
    tables: dict[tuple[str, ...], Table] = {}
    points = []
    for cascade in cascades:
        if cascade.confidence == "logit-gap":
            found = evaluate(cascade, pool, "test")
            points.append((1 - found.accuracy, found.macs))
            continue
        numbers = np.array([pool.names.index(name) for name in cascade.member_names])
        kind = cascade.combine, *cascade.member_names
        if kind not in tables:
            tables[kind] = evaluator.table(numbers, cascade.combine)
        thresholds = np.array([stage.threshold for stage in cascade.stages[:-1]], np.float32)
        exits = exits_of(tables[kind].confidence[:-1] > thresholds[:, None])
        is_right = tables[kind].is_right[exits, np.arange(len(exits))]
        points.append((float(1 - is_right.mean()), float(np.cumsum(macs[numbers])[exits].mean())))
    return points


def run(
    results: Path,
    pools: Sequence[str],
    evaluations: int,
    seeds: int,
    *,
    only: Sequence[str] | None,
    in_time: bool,
) -> None:
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for source in pools:
            pool = copied(source, Path(folder))
            search(pool, evaluations=300, algorithm="nsga2")  # compiles, and makes the shortlists
            search(pool, evaluations=300)
            for seed in range(1, seeds + 1):
                for algorithm in (PLAIN, REFINED, *CHANCY[2:], *(CERTAIN if seed == 1 else ())):
                    if only is not None and algorithm not in only:
                        continue
                    kept(results, pool, algorithm, seed, "evaluations", evaluations)
                    if in_time and algorithm != PLAIN:
                        in_equal_time(results, pool, algorithm, seed, evaluations)


def copied(source: str, folder: Path) -> Pool:
    """Bring a pool to a place that may be written to."""
    if source.removesuffix(TEMPERED) in RECORDED:
        recorded = RECORDED[source.removesuffix(TEMPERED)](DATA)
        rows = np.arange(len(recorded.labels))
        pool = recorded.pool(folder / source, {"val": rows[::2], "test": rows[1::2]})
        return temper(pool) if source.endswith(TEMPERED) else pool
    if source != "synthetic":
        return Pool.open(shutil.copytree(source, folder / Path(source).name))
    for split, seed in (("val", 1), ("test", 2)):
        pool = make_pool(folder / source, invented_table(100, 0.80, 0.95), 10_000, 10, seed, split)
    return pool


def in_equal_time(results: Path, pool: Pool, algorithm: str, seed: int, evaluations: int) -> None:
    """Search as long as MO-GOMEA did, by the speed of the search with equal evaluations."""
    equal = read(results, pool.path.name, algorithm, seed, "evaluations")
    time_s = read(results, pool.path.name, PLAIN, seed, "evaluations").seconds
    times = min(time_s / equal.seconds, MOST_TIMES)
    kept(results, pool, algorithm, seed, "time", max(300, round(evaluations * times)))


def kept(results: Path, pool: Pool, algorithm: str, seed: int, budget: str, evaluations: int) -> Result:
    """Search, unless that was done before."""
    name = Result(pool.path.name, algorithm, seed, budget, 0, 0, 0, {}).name
    if not (results / name).exists():
        found = searched(pool, algorithm, seed, budget, evaluations)
        (results / name).write_text(json.dumps(asdict(found)))
        print(f"{name}: {found.evaluations} evaluations, {found.seconds:.2f} s", flush=True)
    return Result(**json.loads((results / name).read_text()))


def read(results: Path, pool: str, algorithm: str, seed: int, budget: str) -> Result:
    path = results / Result(pool, algorithm, seed, budget, 0, 0, 0, {}).name
    return Result(**json.loads(path.read_text()))


def every(results: Path) -> dict[tuple[str, str, str], list[Result]]:
    """Results of all seeds by pool, algorithm and budget; MO-GOMEA is its own measure of time."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for path in sorted(results.glob("*.json")):
        one = Result(**json.loads(path.read_text()))
        for budget in ("evaluations", "time") if one.algorithm == PLAIN else (one.budget,):
            found.setdefault((one.pool, one.algorithm, budget), []).append(one)
    return {key: sorted(some, key=lambda one: one.seed) for key, some in found.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def p_value(better: Sequence[float], worse: Sequence[float]) -> float:
    """One-sided: how easily chance makes the first so much better, seed by seed."""
    others = np.resize(worse, len(better))
    if np.array_equal(better, others):
        return 1.0
    return float(wilcoxon(better, others, alternative="greater").pvalue)


def undominated(front: Points, grid: Points) -> tuple[int, float]:
    """How many points of a grid's front nothing is as good as; the worst ratio of costs at their error."""
    costs = np.array([min(front[front[:, 0] <= error + 1e-9, 1], default=np.inf) for error in grid[:, 0]])
    ratios = costs / grid[:, 1]
    return int((ratios > 1 + 1e-9).sum()), float(max(ratios.max(), 1))


def report(results: Path) -> None:
    found = every(results)
    pools = sorted({pool for pool, _, _ in found})
    timed = any(budget == "time" and name != PLAIN for _, name, budget in found)
    for budget in ("evaluations", "time") if timed else ("evaluations",):
        for split in SPLITS:
            print(f"\nequal {budget}, {split}\n\n| algorithm | {' | '.join(pools)} |")
            print("|---" * (len(pools) + 1) + "|")
            cells = {pool: column(found, pool, budget, split) for pool in pools}
            for name in (*CHANCY, *CERTAIN):
                print(f"| {name} | {' | '.join(cells[pool].get(name, '') for pool in pools)} |")
    for pool in pools:
        if pool + TEMPERED in pools:
            compare_tempered(found, pool)


def compare_tempered(found: dict[tuple[str, str, str], list[Result]], pool: str) -> None:
    """Print how likely it is by chance that variants with a temperature bring so much."""
    of_both = [found[name, REFINED, "evaluations"] for name in (pool + TEMPERED, pool)]
    pairs = list(zip(*of_both, strict=False))  # the seeds that there are of both
    for split in SPLITS:
        with_them, without = ([one.volume(split) for one in some] for some in zip(*pairs, strict=True))
        print(
            f"\n{pool}, {split}: {np.median(without):.4f}, with temperatures {np.median(with_them):.4f}, "
            f"higher in {np.greater(with_them, without).sum()} of {len(pairs)} seeds, "
            f"p {p_value(with_them, without):.2g}"
        )


def grids(folders: Sequence[Path]) -> None:
    """Print where grids of each budget are not dominated by fronts of each budget."""
    every_found = [every(folder) for folder in folders]
    pools = sorted({pool for found in every_found for pool, name, _ in found if name == CERTAIN[1]})
    print("| front | evaluations | grid | evaluations | " + " | ".join(pools) + " |")
    print("|---" * (len(pools) + 4) + "|")
    for found in every_found:
        for name in (REFINED, PLAIN):
            for of_grids in every_found:
                for grid in ("grid-last", "grid-mean"):
                    compare_grid(found, name, of_grids, grid, pools)


def compare_grid(
    found: dict[tuple[str, str, str], list[Result]],
    name: str,
    of_grids: dict[tuple[str, str, str], list[Result]],
    grid: str,
    pools: Sequence[str],
) -> None:
    """Print a row: median and most of points that are not dominated, and the worst ratio of costs."""
    cells, budgets = [], [0, 0]
    for pool in pools:
        fronts, wanted = found.get((pool, name, "evaluations")), of_grids.get((pool, grid, "evaluations"))
        if not fronts or not wanted:
            cells.append("")
            continue
        points = np.array(wanted[0].points["val"])
        n, worst = np.array([undominated(np.array(one.points["val"]), points) for one in fronts]).T
        cells.append(f"{np.median(n):g} (at most {n.max():.0f}) of {len(points)}, {worst.max():.3f}")
        budgets = [fronts[0].evaluations, wanted[0].evaluations]
    if any(cells):
        print(f"| {name} | {budgets[0]:,} | {grid} | {budgets[1]:,} | {' | '.join(cells)} |")


def column(
    found: dict[tuple[str, str, str], list[Result]], pool: str, budget: str, split: str
) -> dict[str, str]:
    """Describe every algorithm on a pool: median hypervolume, and p-values of the hypotheses about it."""
    volumes = {
        name: [one.volume(split) for one in some]
        for (of, name, by), some in found.items()
        if (of, by) == (pool, budget)
    }
    others = [name for name in volumes if name not in (REFINED, PLAIN, NSGA_REFINED)]
    hypotheses = {name: (PLAIN, name) for name in others}
    hypotheses |= {REFINED: (REFINED, PLAIN), NSGA_REFINED: (REFINED, NSGA_REFINED)}
    known = {name: pair for name, pair in hypotheses.items() if set(pair) <= set(volumes)}
    p_values = [p_value(volumes[better], volumes[worse]) for better, worse in known.values()]
    corrected = dict(zip(known, holm(p_values), strict=True))
    cells = {name: f"{np.median(some):.4f}" for name, some in volumes.items()}
    return {
        name: cell + (f" (p {corrected[name]:.2g})" if name in corrected else "")
        for name, cell in cells.items()
    }


def draw(results: Path, picture: Path) -> None:
    """Fronts on val with equal evaluations: the median over the seeds, and the band of all of them."""
    found = every(results)
    shown = {
        REFINED: "#0072B2",
        PLAIN: "#56B4E9",
        "nsga2": "#D55E00",
        "random": "#999999",
        "greedy": "#CC79A7",
        "grid-last": "#009E73",
        "grid-mean": "#E69F00",
    }
    pools = sorted({pool for pool, _, _ in found})
    pools = [pool for pool in pools if all((pool, name, "evaluations") in found for name in shown)]
    rows = max(1, -(-len(pools) // 2))
    figure, axes = plt.subplots(rows, 2, figsize=(12, 0.5 + 4.5 * rows), dpi=100, layout="constrained")
    for axis in axes.flat[len(pools) :]:
        axis.set_axis_off()
    for axis, pool in zip(axes.flat, pools, strict=False):
        fronts = {
            name: [np.array(r.points["val"]) for r in found[pool, name, "evaluations"]] for name in shown
        }
        cheapest = min(front[:, 1].min() for some in fronts.values() for front in some)
        costs = np.geomspace(cheapest, max(r.dearest for r in found[pool, PLAIN, "evaluations"]), 400)
        for name, colour in shown.items():
            errors = np.array([steps(front, costs) for front in fronts[name]]) * 100
            axis.plot(costs / 1e6, np.median(errors, axis=0), color=colour, lw=1.4, label=name)
            axis.fill_between(
                costs / 1e6, errors.min(axis=0), errors.max(axis=0), color=colour, alpha=0.2, lw=0
            )
        axis.set(
            xscale="log",
            title=pool.removesuffix("-pool"),
            xlabel="mean cost per sample, MMACs",
            ylabel="error on val, %",
        )
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(picture)


def steps(front: Points, costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Error of the best candidate that costs no more; NaN where there is none."""
    order = np.argsort(front[:, 1])
    places = np.searchsorted(front[order, 1], costs, side="right") - 1
    errors = np.minimum.accumulate(front[order, 0])[places]
    return np.where(places < 0, np.nan, errors)


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("results", type=Path)
    running.add_argument("pools", nargs="+", metavar="POOL")
    running.add_argument("--evaluations", type=int, default=20_000)
    running.add_argument("--seeds", type=int, default=10)
    running.add_argument("--only", nargs="+", choices=(*CHANCY, *CERTAIN), help="these algorithms")
    running.add_argument("--no-time", action="store_true", help="equal evaluations only")
    reporting = commands.add_parser("report")
    reporting.add_argument("results", type=Path)
    reporting.add_argument("--picture", type=Path)
    comparing = commands.add_parser("grids")
    comparing.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    if args.command == "grids":
        grids(args.results)
        return
    if args.command == "run":
        run(args.results, args.pools, args.evaluations, args.seeds, only=args.only, in_time=not args.no_time)
        return
    report(args.results)
    if args.picture is not None:
        draw(args.results, args.picture)


if __name__ == "__main__":
    main()
