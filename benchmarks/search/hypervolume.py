"""How much of the plane of error and cost MO-GOMEA, random search and NSGA-II dominate on the same budget.

    python benchmarks/search/hypervolume.py [POOL ...] [--evaluations 30000] [--seeds 3]

Without a pool it makes three synthetic ones of 100 members, 10,000 samples and 10 classes (see synthetic.py).
NSGA-II is that of pymoo, on the same genomes: 100 solutions, simulated binary crossover and polynomial
mutation rounded to whole numbers. All are given the same number of different genotypes.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.core.termination import Termination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from synthetic import invented_table, make_pool

from encas import Pool
from encas.search.drive import Watch, drive
from encas.search.evaluate import Evaluator
from encas.search.gomea import MoGomea
from encas.search.ledger import Evaluations, Ledger
from encas.search.random import RandomSearch

Searching = Callable[[Evaluator, Ledger, int], None]


def unit(evaluator: Evaluator) -> np.ndarray:
    return np.array([0.01, evaluator.costs.max() / 100])


def mo_gomea(evaluator: Evaluator, ledger: Ledger, seed: int) -> None:
    space = evaluator.space
    algorithm = MoGomea(space.n_values, 2, np.random.default_rng(seed), canonical=space.compact)
    drive(algorithm, ledger, unit(evaluator), Watch(ledger, (1.0, 1.0)))


def random_search(evaluator: Evaluator, ledger: Ledger, seed: int) -> None:
    algorithm = RandomSearch(evaluator.space.n_values, np.random.default_rng(seed))
    drive(algorithm, ledger, unit(evaluator), Watch(ledger, (1.0, 1.0)))


def nsga2(evaluator: Evaluator, ledger: Ledger, seed: int) -> None:
    n_values = evaluator.space.n_values

    class Cascades(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=len(n_values), n_obj=2, xl=0, xu=n_values - 1, vtype=int)

        def _evaluate(self, x: Any, out: Any, *_: Any, **__: Any) -> None:
            answers = ledger.objectives(x.astype(np.intp)) / unit(evaluator)
            out["F"] = np.full((len(x), 2), np.finfo(float).max)  # what the budget did not reach
            out["F"][: len(answers)] = answers

    class WhenSpent(Termination):
        def _update(self, _: Any) -> float:
            return float(ledger.is_spent)

    whole: dict[str, Any] = {"vtype": float, "repair": RoundingRepair()}
    crossover, mutation = SBX(prob=1.0, eta=3.0, **whole), PM(prob=1.0, eta=3.0, **whole)
    algorithm = NSGA2(100, sampling=IntegerRandomSampling(), crossover=crossover, mutation=mutation)
    minimize(Cascades(), algorithm, WhenSpent(), seed=seed)


def share(pool: Pool, searching: Searching, evaluations: int, seed: int) -> float:
    """Hypervolume of what a search found; reference: error 1 and the cost of the dearest member."""
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    evaluator = Evaluator.open(pool, "val", members, costs, max_stages=5)
    space = evaluator.space
    ledger = Ledger(space.compact, evaluator.of_canonical, evaluations, Evaluations.none(space.n_genes))
    searching(evaluator, ledger, seed)
    return Watch(ledger, (1.0, float(costs.max()))).hypervolume()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pools", nargs="*", type=Path, metavar="POOL")
    parser.add_argument("--evaluations", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pools = [Pool.open(path) for path in args.pools]
        if not pools:
            table = invented_table(100, 0.80, 0.95)
            pools = [make_pool(Path(folder) / f"synthetic{i}", table, 10_000, 10, seed=i) for i in (1, 2, 3)]
        for searching in (mo_gomea, random_search, nsga2):
            everything = []
            for pool in pools:
                shares = [share(pool, searching, args.evaluations, seed + 1) for seed in range(args.seeds)]
                everything += shares
                print(
                    f"{searching.__name__:13} {pool.path.name:12} mean {np.mean(shares):.5f}  "
                    f"lowest {min(shares):.5f}  highest {max(shares):.5f}",
                    flush=True,
                )
            print(f"{searching.__name__:13} {'all':12} mean {np.mean(everything):.5f}")


if __name__ == "__main__":
    main()
