"""How much of the plane of error and cost MO-GOMEA and random search dominate on the same budget.

    python benchmarks/search/hypervolume.py [POOL ...] [--evaluations 30000] [--seeds 5] [--workers 2]

Without a pool it makes a synthetic one of 100 members, 10,000 samples and 10 classes (see synthetic.py).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from synthetic import invented_table, make_pool

from encas import Front, Pool
from encas.search import search
from encas.search.pareto import hypervolume

ALGORITHMS = ("mo-gomea", "random")


def share(front: Front) -> float:
    """Hypervolume of a front, in [0, 1]; reference: error 1 and the cost of the dearest member."""
    points = np.array([[candidate.error, candidate.cost] for candidate in front.candidates])
    return hypervolume(points, (1.0, max(single.cost for single in front.file.singles)))


def compare(pool: Pool, evaluations: int, seeds: int, workers: int) -> None:
    for algorithm in ALGORITHMS:
        fronts = [
            search(pool, evaluations=evaluations, seed=seed, algorithm=algorithm, workers=workers)
            for seed in range(seeds)
        ]
        shares = [share(front) for front in fronts]
        seconds = min(front.file.seconds for front in fronts)
        print(
            f"{pool.path}  {algorithm:8}  mean {np.mean(shares):.5f}  lowest {min(shares):.5f}  "
            f"highest {max(shares):.5f}  {len(fronts[0].candidates)} cascades  {seconds:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pools", nargs="*", type=Path, metavar="POOL")
    parser.add_argument("--evaluations", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pools = [Pool.open(path) for path in args.pools]
        pools = pools or [make_pool(Path(folder) / "synthetic", invented_table(100, 0.80, 0.95), 10_000, 10)]
        for pool in pools:
            compare(pool, args.evaluations, args.seeds, args.workers)


if __name__ == "__main__":
    main()
