"""How fast a search evaluates, on synthetic pools, beside a plain evaluator in numpy.

    python benchmarks/search/evaluator.py [10 100 1000] [--workers 2] [--json FILE]
    python benchmarks/search/evaluator.py --full --table timm_models.csv --folder pools

A pool is named by its number of classes: 100 members x 10,000 samples for 10 and 100 classes, 40 x 20,683 for
1,000. `--full` is a pool as large as that of the published experiment, 518 x 20,683 x 1,000, with members as
accurate and as large as those in a table of timm models; it takes 21 GB in `--folder`. Members' errors are
correlated and samples share their difficulty (see synthetic.py), but nothing in it is a real network.

Every pool is searched by MO-GOMEA in a process of its own. "search" is the whole loop after the pool is
opened, "evaluator" counts only the time inside it. "plain" runs some of the genotypes which that search
visited on the dense probabilities, as the original does, in float32; its answers must be the same.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synthetic import Table, invented_table, make_pool, timm_table

from encas.pool import Pool
from encas.search.algorithm import Genomes, Objectives
from encas.search.drive import Watch, drive
from encas.search.evaluate import Evaluator
from encas.search.genome import THRESHOLDS
from encas.search.gomea import MoGomea
from encas.search.ledger import Evaluations, Ledger

# members, samples, classes, evaluations
SHAPES = {
    "10": (100, 10_000, 10, 300_000),
    "100": (100, 10_000, 100, 60_000),
    "1000": (40, 20_683, 1000, 30_000),
    "full": (518, 20_683, 1000, 600_000),
}


@dataclass(frozen=True)
class Result:
    pool: str
    evaluations: int
    prepare_s: float  # the first time that the pool is opened
    prepared_bytes: int
    open_s: float  # every other time
    search_s: float
    evaluator_s: float
    peak_bytes: int
    plain_evaluations: int
    plain_s: float
    hypervolume: float
    load_average: float


class Timed:
    """An evaluator that keeps what it was asked, and how long it took."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.batches: list[NDArray[np.uint16]] = []
        self.seconds = 0.0

    def __call__(self, genomes: Genomes) -> Objectives:
        started_s = time.perf_counter()
        objectives = self.evaluator.of_canonical(genomes)
        self.seconds += time.perf_counter() - started_s
        self.batches.append(genomes.astype(np.uint16))
        return objectives


def opened(path: Path, workers: int) -> tuple[Evaluator, float]:
    started_s = time.perf_counter()
    pool = Pool.open(path)
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    evaluator = Evaluator.open(pool, "val", members, costs, max_stages=5, workers=workers)
    return evaluator, time.perf_counter() - started_s


def searched(evaluator: Evaluator, evaluations: int, seed: int) -> tuple[Timed, float, float]:
    """Record a search; return also its seconds and the hypervolume of its front."""
    timed, space, most = Timed(evaluator), evaluator.space, float(evaluator.costs.max())
    ledger = Ledger(space.compact, timed, evaluations, Evaluations.none(space.n_genes))
    algorithm = MoGomea(space.n_values, 2, np.random.default_rng(seed), canonical=space.compact)
    watch = Watch(ledger, (1.0, most))
    started_s = time.perf_counter()
    drive(algorithm, ledger, np.array([0.01, most / 100]), watch)
    return timed, time.perf_counter() - started_s, watch.hypervolume()


def plain(outputs: list[NDArray[np.float16]], labels: NDArray[np.int64], genome: Genomes) -> list[int]:
    """Right answers, then the samples that each stage ran for."""
    rows, right, reached, total = np.arange(len(labels)), 0, [], np.float32(0)
    members, thresholds = genome[:5][genome[:5] > 0] - 1, THRESHOLDS[genome[5:]].astype(np.float32)
    for stage, member in enumerate(members):
        reached.append(len(rows))
        total = total + outputs[member][rows].astype(np.float32)
        mean = total / np.float32(stage + 1)
        is_last = stage + 1 == len(members)
        leaves = np.ones(len(rows), bool) if is_last else mean.max(axis=1) > thresholds[stage]
        right += int(np.sum(mean[leaves].argmax(axis=1) == labels[rows[leaves]]))
        rows, total = rows[~leaves], total[~leaves]
    return [right, *reached]


def run_plain(path: Path, evaluator: Evaluator, genomes: Genomes) -> float:
    pool = Pool.open(path)
    labels = pool.labels("val")
    outputs = [pool.probs(name, "val") for name in pool.names]
    started_s = time.perf_counter()
    found = [plain(outputs, labels, genome) for genome in genomes]
    seconds = time.perf_counter() - started_s
    counts = evaluator.counts(genomes)
    for row, (right, *reached) in enumerate(found):
        assert counts.right[row] == right
        assert counts.reached[row, : len(reached)].tolist() == reached
    return seconds


def measure(name: str, path: Path, workers: int, evaluations: int, seed: int, n_plain: int) -> Result:
    evaluator, prepare_s = opened(path, workers)
    del evaluator
    evaluator, open_s = opened(path, workers)
    searched(evaluator, 2000, seed)  # compiles what is not compiled yet
    timed, search_s, share = searched(evaluator, evaluations, seed)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    visited = np.concatenate(timed.batches).astype(np.intp)
    visited = visited[visited[:, 0] > 0]
    some = visited[:: max(1, len(visited) // n_plain)][:n_plain]
    return Result(
        pool=name,
        evaluations=evaluations,
        prepare_s=prepare_s,
        prepared_bytes=sum(file.stat().st_size for file in (path / "val" / "shortlist").glob("*")),
        open_s=open_s,
        search_s=search_s,
        evaluator_s=timed.seconds,
        peak_bytes=peak_bytes,
        plain_evaluations=len(some),
        plain_s=run_plain(path, evaluator, some),
        hypervolume=share,
        load_average=os.getloadavg()[0],
    )


def table_of(name: str, m: int, timm: Path | None) -> Table:
    if timm is not None and name in ("1000", "full"):
        return timm_table(timm, m)
    return invented_table(m, 0.80, 0.95) if name == "10" else invented_table(m, 0.60, 0.86)


def show(results: list[Result]) -> None:
    print(
        f"{'pool':>6} {'plain/s':>8} {'evaluator/s':>11} {'search/s':>9} {'search s':>8} "
        f"{'prepare s':>9} {'disk MB':>7} {'peak GB':>7} {'load':>5}"
    )
    for r in results:
        print(
            f"{r.pool:>6} {r.plain_evaluations / r.plain_s:8.1f} {r.evaluations / r.evaluator_s:11,.0f} "
            f"{r.evaluations / r.search_s:9,.0f} {r.search_s:8.1f} {r.prepare_s:9.1f} "
            f"{r.prepared_bytes / 1e6:7,.0f} {r.peak_bytes / 1e9:7.2f} {r.load_average:5.2f}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pools", nargs="*", choices=["10", "100", "1000", []], metavar="CLASSES")
    parser.add_argument("--full", action="store_true", help="the pool of 518 members besides")
    parser.add_argument("--table", type=Path, help="CSV with columns model, top1, gmacs for 1,000 classes")
    parser.add_argument("--folder", type=Path, help="keep the pools here, and use those that are here")
    parser.add_argument("--evaluations", type=int, help="as many for every pool")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", type=int, default=100, help="genotypes for the plain evaluator")
    parser.add_argument("--json", type=Path, help="write the raw numbers here")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    names = [*(args.pools or ([] if args.full else ["10", "100", "1000"])), *(["full"] if args.full else [])]
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            m, n, c, evaluations = SHAPES[name]
            path = (args.folder or Path(temporary)) / f"{m}x{n}x{c}"
            if not (path / "pool.json").exists():
                make_pool(path, table_of(name, m, args.table), n, c)
            # A process of its own, so that its largest memory is that of this pool.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as process:
                asked = args.evaluations or evaluations
                task = process.submit(measure, name, path, args.workers, asked, args.seed, args.plain)
                results.append(task.result())
    show(results)
    if args.json is not None:
        machine = {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        raw = {"machine": machine, "results": [asdict(result) for result in results]}
        args.json.write_text(json.dumps(raw, indent=2) + "\n")


if __name__ == "__main__":
    main()
