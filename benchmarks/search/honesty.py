"""How often the accuracy that a front states for other samples is what the test split then shows.

    python benchmarks/search/honesty.py [--data FOLDER] [--splits 20] [--evaluations 20000] [--val N ...]

The samples are divided anew for every split into val, to search on, and test. Counted are all candidates of
all fronts, those that are picked by an accuracy, and for comparison the same intervals around the accuracy on
what was searched on.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from recorded import DATA, RECORDED, Recorded

from encas.cascade import Cascade
from encas.evaluation import evaluate
from encas.interval import predict
from encas.pool import Pool
from encas.search import search
from encas.search.pareto import hypervolume

PARTS = {"cifar10": ((5000, 5000), (2000, 8000), (8000, 2000)), "photographs": ((500, 500),)}


def within(stated: object, accuracy: float) -> bool:
    return stated.low <= accuracy <= stated.high


def one_split(data: Recorded, path: Path, parts: tuple[int, int], evaluations: int, seed: int) -> dict:
    order = np.random.default_rng(seed).permutation(sum(parts))
    pool = data.pool(path, {"val": order[: parts[0]], "test": order[parts[0] :]})
    front = search(pool, evaluations=evaluations, seed=seed)
    whole = search(pool, evaluations=evaluations, seed=seed, report_fraction=0)
    honest, flattering, gaps, flattery, widths = [], [], [], [], []
    for candidate in front.candidates:
        cascade, test = candidate.cascade, evaluate(candidate.cascade, pool, "test").accuracy
        reported, searched = cascade.reported, cascade.evaluated["val"]
        honest.append(within(reported.interval, test))
        flattering.append(within(predict(searched.accuracy, searched.n, parts[1]), test))
        gaps.append(test - reported.accuracy)
        flattery.append(test - searched.accuracy)
        widths.append(reported.interval.high - reported.interval.low)
    picked = []
    reached = np.array([candidate.cascade.reported.accuracy for candidate in front.candidates])
    for wish in np.quantile(reached, [0.25, 0.5, 0.75, 0.9]):
        cascade = front.pick(min_accuracy=float(wish))
        picked.append(within(cascade.reported.interval, evaluate(cascade, pool, "test").accuracy))
    return {
        "honest": np.mean(honest),
        "flattering": np.mean(flattering),
        "picked": np.mean(picked),
        "gap": np.mean(gaps),
        "flattery": np.mean(flattery),
        "width": np.mean(widths),
        "hv": volume(pool, [c.cascade for c in front.candidates]),
        "hv_whole": volume(pool, [c.cascade for c in whole.candidates]),
        "candidates": len(honest),
        "n_honest": sum(honest),
    }


def volume(pool: Pool, cascades: list[Cascade]) -> float:
    """Hypervolume on test; reference: error 1 and the cost of the dearest member."""
    found = [evaluate(cascade, pool, "test") for cascade in cascades]
    most = max(member.macs for member in pool.file.members)
    return hypervolume(np.array([[1 - f.accuracy, f.macs] for f in found]), (1.0, float(most)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--val", type=int, nargs="+", help="only where so many samples are searched on")
    args = parser.parse_args()
    for name, make in RECORDED.items():
        data = make(args.data)
        for parts in PARTS[name]:
            if args.val is not None and parts[0] not in args.val:
                continue
            found = []
            for seed in range(args.splits):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(one_split(data, Path(folder) / "pool", parts, args.evaluations, seed))
            mean = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
            all_candidates = sum(f["candidates"] for f in found)
            print(
                f"{name} val {parts[0]} test {parts[1]}: {all_candidates} candidates; interval holds for "
                f"{sum(f['n_honest'] for f in found) / all_candidates:.1%} (worst split "
                f"{min(f['honest'] for f in found):.0%}), of those picked by accuracy {mean['picked']:.1%}, "
                f"around searched accuracy {mean['flattering']:.1%}; "
                f"test minus kept out {100 * mean['gap']:+.2f}, "
                f"test minus searched {100 * mean['flattery']:+.2f} points; "
                f"interval {100 * mean['width']:.2f} points wide; "
                f"hypervolume on test {mean['hv']:.4f}, searched on all of val {mean['hv_whole']:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
