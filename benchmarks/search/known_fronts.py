"""How many different genomes MO-GOMEA asks for until it has seen every point of a known front.

    python benchmarks/search/known_fronts.py [--seeds 3] [--at-most 300000]

Prints the largest number of all seeds; a seed that needs more than `--at-most` counts as none.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from encas.search.gomea import MoGomea

sys.path.append(str(Path(__file__).parents[2] / "tests" / "search"))
from problems import (  # the tests and this measure the same problems
    found_after,
    leading_ones_trailing_zeros,
    trap_inverse_trap,
    zeromax_onemax,
)

PROBLEMS = {
    "zeromax - onemax": (zeromax_onemax(50), zeromax_onemax(100)),
    "trap5 - inverse trap5": tuple(trap_inverse_trap(blocks) for blocks in (5, 10, 20)),
    "leading ones - trailing zeros": tuple(leading_ones_trailing_zeros(genes) for genes in (15, 25, 50)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-most", type=int, default=300_000)
    args = parser.parse_args()
    for name, problems in PROBLEMS.items():
        for problem in problems:
            needed = [
                found_after(
                    MoGomea(np.full(problem.n_genes, 2), 2, np.random.default_rng(seed)),
                    problem,
                    args.at_most,
                )
                for seed in range(args.seeds)
            ]
            found = [n for n in needed if n is not None]
            most = f"{max(found):,}" if found else "-"
            print(
                f"{name:30} {problem.n_genes:4} genes {len(problem.front):4} points "
                f"{most:>9} genomes, {len(found)} of {args.seeds} seeds",
                flush=True,
            )


if __name__ == "__main__":
    main()
