"""How long guessing takes beside the same ensemble made of scipy's RBFInterpolator.

    python benchmarks/search/predictor.py [--archive 300] [--candidates 10000] [--genes 22] [--members 500]

Of scipy's members a few are run, and their time is multiplied.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.interpolate import RBFInterpolator

from encas.search.nat.predictor import Predictor

_PEERS = 10


def taken(name: str, work: Callable[[], object], times: float = 1.0) -> None:
    wall_s, processor_s = time.perf_counter(), time.process_time()
    work()
    wall_s, processor_s = time.perf_counter() - wall_s, time.process_time() - processor_s
    print(f"{name:34} {times * wall_s:6.2f} s, processor time {times * processor_s:6.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in (("archive", 300), ("candidates", 10_000), ("genes", 22), ("members", 500)):
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    known, errors = rng.integers(10, size=(args.archive, args.genes)), rng.random(args.archive)
    asked = rng.integers(10, size=(args.candidates, args.genes))
    Predictor.fit(known, errors, rng, 2).predict(asked[:10])  # compiles
    predictors: list[Predictor] = []
    taken("fit", lambda: predictors.append(Predictor.fit(known, errors, rng, args.members)))
    taken("predict", lambda: predictors[0].predict(asked))

    subsets = [np.sort(rng.choice(args.genes, args.genes // 2, replace=False)) for _ in range(_PEERS)]
    firsts = [np.unique(known[:, used], axis=0, return_index=True)[1] for used in subsets]
    peers: list[RBFInterpolator] = []

    def fit_peers() -> None:
        for used, rows in zip(subsets, firsts, strict=True):
            peers.append(RBFInterpolator(known[rows][:, used], errors[rows], kernel="cubic", degree=1))

    taken("fit, scipy's RBFInterpolator", fit_peers, args.members / _PEERS)
    taken(
        "predict, scipy's RBFInterpolator",
        lambda: [peer(asked[:, used]) for peer, used in zip(peers, subsets, strict=True)],
        args.members / _PEERS,
    )


if __name__ == "__main__":
    main()
