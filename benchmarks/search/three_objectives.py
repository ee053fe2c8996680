"""Whether one search for error, MACs and latency finds more than two searches for two of them.

    python benchmarks/search/three_objectives.py [--evaluations 20000] [--seeds 5]

On the six CIFAR-10 networks, timed here (one image at a time; their order differs from that by MACs). The two
searches, by MACs and by latency, have half of the evaluations each, and their fronts are joined. Prints the
volume in three objectives (reference: error 1 and the dearest member), and the areas by MACs and by latency.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from moocore import hypervolume
from quality import copied
from recorded import DATA

from encas.runtime import open_session
from encas.search.evaluate import Evaluator
from encas.search.gomea import MoGomea
from encas.search.landscape import Landscape
from encas.search.ledger import Evaluations, Ledger
from encas.search.problem import Problem

_WARM_UP, _TIMED = 20, 300


def latency_s(file: Path) -> float:
    """Median time of one image of 32 x 32."""
    session, image = open_session(file, "cpu"), np.zeros((1, 3, 32, 32), np.float32)
    times = []
    for _ in range(_WARM_UP + _TIMED):
        started_s = time.perf_counter()
        session.run(image)
        times.append(time.perf_counter() - started_s)
    return float(np.median(times[_WARM_UP:]))


class Bench:
    """Cascades with three objectives."""

    def __init__(self, folder: Path) -> None:
        self.problem = Problem.of(copied("cifar10", folder), "val", "macs", 5)
        self.latencies_s = np.array([latency_s(DATA / f"cifar10/onnx/{n}.onnx") for n in self.problem.names])
        self.macs = self.problem.costs.singles
        self._landscapes = [self._landscape(costs) for costs in (self.macs, self.latencies_s)]
        self.reference = np.array([1.0, self.macs.max(), self.latencies_s.max()])

    def _landscape(self, costs: np.ndarray) -> Landscape:
        problem = self.problem
        evaluator = Evaluator.open(problem.pool, "val", problem.members, costs, max_stages=5)
        return Landscape.either(evaluator, problem.names)

    def objectives(self, genomes: np.ndarray) -> np.ndarray:
        """(p, 3) error, MACs and seconds."""
        by_macs, by_latency = (landscape.evaluate(genomes) for landscape in self._landscapes)
        return np.column_stack([by_macs, by_latency[:, 1]])

    def search(self, wanted: list[int], evaluations: int, seed: int) -> np.ndarray:
        """(e, 3) all that was evaluated in a search for some of the objectives."""
        space = self._landscapes[0].space
        algorithm = MoGomea(
            space.n_values,
            len(wanted),
            np.random.default_rng(seed),
            canonical=space.compact,
            loosened=space.loosened,
            alphabets=space.alphabets(self.macs),
        )
        ledger = Ledger(space.compact, self.objectives, evaluations, Evaluations.none(space.n_genes, 3))
        while not ledger.is_spent:
            asked = algorithm.ask()
            found = ledger.objectives(asked)
            if len(found) < len(asked):
                break
            algorithm.tell(100 * found[:, wanted] / self.reference[wanted])
        return ledger.evaluated_since(0)

    def volumes(self, found: np.ndarray) -> str:
        scaled = found / self.reference
        parts = [scaled] + [np.ascontiguousarray(scaled[:, [0, other]]) for other in (1, 2)]
        return ", ".join(f"{hypervolume(part, ref=np.ones(part.shape[1])):.5f}" for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name, seconds in zip(bench.problem.names, bench.latencies_s, strict=True):
            print(f"{name}: {1e3 * seconds:.3g} ms")
        print("volume, area by MACs, area by latency")
        for seed in range(1, args.seeds + 1):
            one = bench.search([0, 1, 2], args.evaluations, seed)
            two = [bench.search([0, other], args.evaluations // 2, seed) for other in (1, 2)]
            print(f"seed {seed}: one search {bench.volumes(one)}", flush=True)
            print(f"        two searches {bench.volumes(np.concatenate(two))}", flush=True)


if __name__ == "__main__":
    main()
