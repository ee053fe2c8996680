"""What choosing the precision, and correcting the search by the device, bring on real networks.

    python benchmarks/runtime/precision.py POOL --folder WORK --do prepare
    python benchmarks/runtime/precision.py POOL --folder WORK --do measure
    python benchmarks/runtime/precision.py POOL --folder WORK --do search
    python benchmarks/runtime/precision.py POOL --folder WORK --do compare
    python benchmarks/runtime/precision.py POOL --folder WORK --do time
    python benchmarks/runtime/precision.py POOL --folder WORK --do show --picture docs/pictures/precision.png

POOL has networks in fp32 with val and test, their images at hand (`real_pools.py` makes such). `prepare`
copies it twice, once with an int8 variant of each member; the others want the machine for themselves, and
take minutes each; on a busy one, `--clock processor --threads 1` counts the processor's time. Fronts are
found on val; from each the cheapest cascade of several accuracies on val is chosen, and all that are chosen
are timed on images of test, in turns, and their accuracy there is counted.
"""

import argparse
import json
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot, which would look for a screen
import numpy as np
import onnxruntime
from matplotlib import pyplot

from encas.cascade import Cascade, Stage
from encas.evaluation import evaluate
from encas.export import measure_pool, quantize
from encas.export.inputs import recorded_images
from encas.files import write_model
from encas.front import Front
from encas.pool import Pool
from encas.runtime.machine import usable_cores
from encas.runtime.stopwatch import Stopwatch
from encas.search import search
from encas.search.device import refine
from encas.search.device.cascades import Cascades
from encas.search.device.run import Device, spread

# What is compared: the pool and the front of each.
METHODS = {
    "best single network": ("fp32", None),
    "cascade by MACs": ("fp32", "macs"),
    "cascade by latency": ("fp32", "latency"),
    "refined on the device": ("fp32", "refined"),
    "refined, with int8": ("int8", "refined"),
}
COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#D55E00")
PASSES = 3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def prepare(given: Path, folder: Path) -> None:
    for name in ("fp32", "int8"):
        shutil.copytree(given, folder / name)
        pool = Pool.open(folder / name)
        splits = {
            key: split.model_copy(
                update={
                    "data": split.data.model_copy(update={"path": str((given / split.data.path).resolve())})
                }
            )
            for key, split in pool.file.splits.items()
        }
        members = tuple(
            m.model_copy(
                update={
                    "latency": (),
                    "source": f"onnx:{(given / m.source[5:]).resolve()}"
                    if m.source[:5] == "onnx:"
                    else m.source,
                }
            )
            for m in pool.file.members
        )
        write_model(
            folder / name / "pool.json", pool.file.model_copy(update={"splits": splits, "members": members})
        )
    quantize(Pool.open(folder / "int8"), allow_code=True)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Measure all members together; the pool of fp32 gets the same times."""
    pool, found = measure_pool(
        Pool.open(folder / "int8"),
        batches=(options.batch,),
        provider="cpu",
        allow_code=True,
        stopwatch=Stopwatch(clock=CLOCKS[options.clock]),
    )
    Pool.open(folder / "fp32").with_latency({m.name: m.latency for m in pool.file.members})
    noise = [t.latency_s.noise or 0 for timings in found.members.values() for t in timings]
    print(f"noise of the members' medians {np.median(noise):.1%}, at most {max(noise):.1%}")


def find(folder: Path, options: argparse.Namespace) -> None:
    """Search each pool by MACs, by latency, and corrected by the device."""
    by_time = f"latency:cpu:{options.batch}"
    for name in options.precisions:
        pool = Pool.open(folder / name)
        for kind, objective in (("macs", "macs"), ("latency", by_time)):
            search(
                pool,
                objective=objective,
                evaluations=options.evaluations,
                seed=1,
                report_fraction=0,
                out=folder / f"{name}-{kind}",
            )
        # Half of the budget before the first correction and half behind it: no more than the others have.
        half = partial(
            search, pool, objective=by_time, evaluations=options.evaluations // 2, seed=1, report_fraction=0
        )
        start = half(out=folder / f"{name}-start")
        front = refine(
            Front(folder / f"{name}-refined", start.file),
            pool,
            options.trials,
            half,
            write=True,
            allow_code=True,
            clock=CLOCKS[options.clock],
        )
        for number, round_ in enumerate(front.file.refinement.rounds, 1):
            deviations = [trial.deviation for trial in round_.trials]
            print(
                f"{name}, round {number}: median error {round_.median_error:.1%}, "
                f"{min(deviations):+.1%} to {max(deviations):+.1%}"
            )
        pairs = front.file.refinement.pairs
        print(
            f"{name}, last front against first, run in turns: {sum(pair.kept for pair in pairs)} of "
            f"{len(pairs)} were faster before and were kept; without that "
            f"{' '.join(f'{pair.after.measured_s / pair.before.measured_s:.3f}' for pair in pairs)}"
        )


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Time the unrefined front against what the refined one has of no more error, in turns, on val."""
    for name in options.precisions:
        pool = Pool.open(folder / name)
        after = Front.open(folder / f"{name}-refined")
        for kind in ("start", "latency"):
            pairs = []
            for candidate in spread(Front.open(folder / f"{name}-{kind}").candidates, options.trials):
                better = [c for c in after.candidates if c.error <= candidate.error + 1e-12]
                if better:
                    pairs.append((candidate, min(better, key=lambda c: c.cost)))
            cascades = [c.cascade for pair in pairs for c in pair]
            taken_s = timed(pool, "val", cascades, options, 64 * options.batch)
            ratios = [two / one for one, two in zip(taken_s[::2], taken_s[1::2], strict=True)]
            same = sum(one.cascade.stages == two.cascade.stages for one, two in pairs)
            gained = sum(one.error - two.error > 1e-9 for one, two in pairs)
            print(
                f"{name}, refined against {kind}: time at no more error {np.median(ratios):.3f} (median), "
                f"{min(ratios):.3f} to {max(ratios):.3f}; of {options.trials} cascades {len(pairs)} are "
                f"matched, {same} are the same, {gained} have less error: "
                f"{' '.join(f'{ratio:.3f}' for ratio in ratios)}"
            )


def timed(
    pool: Pool, split: str, cascades: list[Cascade], options: argparse.Namespace, n: int
) -> list[float]:
    """Seconds per image."""
    device = Device.of(pool, split, f"latency:cpu:{options.batch}")
    images = recorded_images(pool, split)
    rows = np.linspace(0, len(images) - 1, min(n, len(images))).round().astype(np.intp)
    with tempfile.TemporaryDirectory() as made:
        clock = CLOCKS[options.clock]
        turns = Cascades(pool, split, Path(made), device.provider, allow_code=True, clock=clock)
        runs = turns.run(cascades, images.take(rows), options.batch, PASSES, lambda _n, _words: None)
    return [float(run.batches_s.sum()) / len(rows) for run in runs]


def choose(folder: Path, options: argparse.Namespace) -> dict[str, list[Cascade]]:
    """Choose the cheapest of each method that reach the same accuracies on val."""
    fronts = {
        method: Front.open(folder / f"{pool}-{kind or 'latency'}") for method, (pool, kind) in METHODS.items()
    }
    singles = fronts["best single network"].file.singles
    best = min(1 - min(s.error for s in singles), *(f.candidates[-1].accuracy for f in fronts.values()))
    top = max(f.candidates[-1].accuracy for f in fronts.values())
    levels = [*np.linspace(options.least, best, options.levels), top]
    chosen = {}
    for method, front in fronts.items():
        some = []
        for level in levels:
            if METHODS[method][1] is None:
                fitting = [s for s in singles if 1 - s.error >= level - 1e-9]
                found = (
                    Cascade(stages=(Stage(member=min(fitting, key=lambda s: s.cost).member),))
                    if fitting
                    else None
                )
            else:
                fitting = [c for c in front.candidates if c.accuracy >= level - 1e-9]
                found = min(fitting, key=lambda c: c.cost).cascade if fitting else None
            if found is not None and found.stages not in [c.stages for c in some]:
                some.append(found)
        chosen[method] = some
    return chosen


def time_all(folder: Path, options: argparse.Namespace) -> None:
    chosen, pool = choose(folder, options), Pool.open(folder / "int8")
    cascades = list({str(c): c for some in chosen.values() for c in some}.values())
    taken_s = dict(
        zip(map(str, cascades), timed(pool, "test", cascades, options, options.images), strict=True)
    )
    found = {
        method: [
            {
                "cascade": str(c),
                "ms": 1e3 * taken_s[str(c)],
                "test": evaluate(c, pool, "test").accuracy,
                "val": evaluate(c, pool, "val").accuracy,
            }
            for c in some
        ]
        for method, some in chosen.items()
    }
    (folder / "timed.json").write_text(json.dumps(found, indent=1))


def show(folder: Path, options: argparse.Namespace) -> None:
    """Print a table, and draw a picture of what dominates within each method on val."""
    found = json.loads((folder / "timed.json").read_text())
    figure, axes = pyplot.subplots(figsize=(10, 6), layout="constrained")
    for (method, points), colour in zip(found.items(), COLOURS, strict=True):
        for point in points:
            print(
                f"{method:24}{100 * point['val']:7.1f} %{100 * point['test']:7.1f} %{point['ms']:9.3f} ms  "
                f"{point['cascade']}"
            )
        style = {"marker": "o", "markersize": 5, "color": colour, "label": method}
        axes.plot([p["ms"] for p in points], [100 * p["test"] for p in points], **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    measured = "measured time" if options.clock == "wall" else "processor time"
    axes.set_xlabel(f"{measured} per image, ms (threads: {options.threads}, batch {options.batch})")
    axes.set_ylabel("accuracy on held-out images, %")
    axes.set_title(options.title)
    axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.5)
    axes.legend(loc="lower right")
    figure.savefig(options.picture, dpi=100, metadata={"Software": None})
    gains(found)


def gains(found: dict[str, list[dict[str, float]]]) -> None:
    """Compare the fastest of each method of no less held-out accuracy, for every point of the others."""
    for base in list(found)[:-1]:
        for method in list(found)[1:]:
            ratios = []
            for point in found[base]:
                better = [p["ms"] for p in found[method] if p["test"] >= point["test"] - 1e-9]
                ratios += [point["ms"] / min(better)] if better else []
            if method != base and ratios:
                print(
                    f"{method} against {base}: {np.median(ratios):.2f}x as fast at no less held-out accuracy "
                    f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} of {len(found[base])} points)"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--do", choices=["prepare", "measure", "search", "compare", "time", "show"], nargs="+"
    )
    parser.add_argument("--precisions", choices=["fp32", "int8"], nargs="+", default=["fp32", "int8"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=12, help="cascades of a round")
    parser.add_argument("--levels", type=int, default=7, help="accuracies to choose for")
    parser.add_argument("--least", type=float, default=0.5, help="the lowest of them")
    parser.add_argument("--images", type=int, default=500, help="of test to time on")
    parser.add_argument("--picture", type=Path, default=Path("precision.png"))
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    onnxruntime.set_global_thread_pool_sizes(options.threads, 1)
    options.folder.mkdir(parents=True, exist_ok=True)
    for what in options.do:
        if what == "prepare":
            prepare(options.pool, options.folder)
        elif what == "measure":
            measure(options.folder, options)
        else:
            {"search": find, "compare": compare, "time": time_all, "show": show}[what](
                options.folder, options
            )


if __name__ == "__main__":
    main()
