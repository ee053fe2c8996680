"""What each addition to MO-GOMEA brings: hypervolume on val, one added after the other.

    python benchmarks/search/additions.py KEPT [POOL ...] [--evaluations 20000] [--seeds 10]

Pools are those of quality.py (by default cifar10 and photographs); nothing is refined. What is in KEPT is not
searched again. Prints the median over the seeds, and in how many of them the row is above the one before.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quality import copied

from encas import Pool
from encas.search import gomea
from encas.search.algorithms import landscape_of
from encas.search.drive import Watch, drive
from encas.search.evaluate import Evaluator
from encas.search.ledger import Evaluations, Ledger
from encas.search.problem import Problem


@dataclass(frozen=True)
class Addition:
    """MO-GOMEA with this and all of the additions before."""

    name: str
    from_archive: float  # of the donors
    moved: float  # of the steps of single genes
    either_answer: bool
    gaps: bool
    of_children: float  # of the evaluations


ADDITIONS = (
    Addition("in canonical form, nothing added", 0, 0, False, False, 0),
    Addition("+ donors near in the archive", 0.5, 0, False, False, 0),
    Addition("+ moves of single genes", 0.5, 0.5, False, False, 0),
    Addition("+ the answer as a gene", 0.5, 0.5, True, False, 0),
    Addition("+ gaps before each step", 0.5, 0.5, True, True, 0),
    Addition("+ children of the archive", 0.5, 0.5, True, True, 0.5),
)


def volume(pool: Pool, addition: Addition, evaluations: int, seed: int) -> float:
    """Share of the plane that the front dominates."""
    gomea.FROM_ARCHIVE, gomea.MOVED = addition.from_archive, addition.moved
    gomea.OF_CHILDREN = addition.of_children
    problem = Problem.of(pool, "val", "macs", 5)
    evaluator = Evaluator.open(pool, "val", problem.members, problem.costs, max_stages=5)
    kind = "mo-gomea" if addition.either_answer else "mo-gomea-2018"
    landscape = landscape_of(kind, evaluator, problem.names)
    space = landscape.space
    algorithm = gomea.MoGomea(
        space.n_values,
        2,
        np.random.default_rng(seed),
        canonical=space.compact,
        loosened=space.loosened if addition.gaps else None,
        alphabets=space.alphabets(evaluator.costs) if addition.from_archive else None,
    )
    none = Evaluations.none(space.n_genes)
    ledger = Ledger(space.compact, landscape.evaluate, evaluations, none)
    watch = Watch(ledger, (1.0, problem.most))
    drive(algorithm, ledger, np.array(watch.reference) / 100, watch)
    return watch.hypervolume()


def kept(folder: Path, pool: Pool, addition: Addition, evaluations: int, seed: int) -> float:
    """Search, unless that was done before."""
    path = folder / f"{pool.path.name}-{addition.name.replace(' ', '-')}-{evaluations}-{seed}.json"
    if not path.exists():
        path.write_text(json.dumps(volume(pool, addition, evaluations, seed)))
    return float(json.loads(path.read_text()))


def row(folder: Path, pool: Pool, evaluations: int, seeds: int) -> list[str]:
    """Describe every addition on a pool."""
    cells, before = [], np.full(seeds, np.nan)
    for addition in ADDITIONS:
        found = np.array([kept(folder, pool, addition, evaluations, s) for s in range(1, seeds + 1)])
        above = "" if np.isnan(before[0]) else f" ({(found > before).sum()})"
        cells.append(f"{np.median(found):.4f}{above}")
        before = found
    return cells


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kept", type=Path)
    parser.add_argument("pools", nargs="*", default=["cifar10", "photographs"], metavar="POOL")
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args(words)
    args.kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        columns = [
            row(args.kept, copied(pool, Path(folder)), args.evaluations, args.seeds) for pool in args.pools
        ]
    print(f"| MO-GOMEA | {' | '.join(args.pools)} |\n" + "|---" * (len(args.pools) + 1) + "|")
    for addition, *cells in zip(ADDITIONS, *columns, strict=True):
        print(f"| {addition.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
