"""The algorithms by name, and which cascades each of them searches."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from encas.search.algorithm import Algorithm, Genomes
from encas.search.evaluate import Evaluator
from encas.search.exhaustive import Exhaustive
from encas.search.gomea import MoGomea
from encas.search.grid import MOST_STAGES, Grid
from encas.search.landscape import Landscape
from encas.search.random import RandomSearch

AlgorithmName = Literal[
    "mo-gomea", "mo-gomea-2018", "nsga2", "nsga3", "random", "greedy", "grid-last", "grid-mean", "ensemble"
]
Kind = Literal["averaged", "either", "ensembles", "replaced"]  # of cascades, see `Landscape`
ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)
_GRIDS = ("grid-last", "grid-mean")
# Greedy's thresholds are off the grid anyway, those of ensembles would make cascades of them.
REFINABLE = tuple(name for name in ALGORITHMS if name not in ("greedy", "ensemble"))


def most_stages(name: AlgorithmName, wanted: int) -> int:
    """Length of the longest cascade that an algorithm looks at."""
    return min(wanted, MOST_STAGES) if name in _GRIDS else wanted


def kind_of(name: AlgorithmName) -> Kind:
    """Say which cascades an algorithm searches."""
    if name == "grid-last":
        return "replaced"
    if name == "ensemble":
        return "ensembles"
    return "either" if name in ("mo-gomea", "nsga2", "nsga3", "random") else "averaged"


def landscape_of(name: AlgorithmName, evaluator: Evaluator, names: Sequence[str]) -> Landscape:
    """Make the landscape that an algorithm searches."""
    makers = {
        "averaged": Landscape.averaged,
        "either": Landscape.either,
        "ensembles": Landscape.ensembles,
        "replaced": Landscape.replaced,
    }
    return makers[kind_of(name)](evaluator, names)


def algorithm_of(
    name: AlgorithmName,
    landscape: Landscape,
    evaluator: Evaluator,
    evaluations: int,
    seed: int,
    seeds: Genomes,
) -> Algorithm:
    """Make an algorithm; `seeds` are (s, g) genomes that those start from that can."""
    space, rng = landscape.space, np.random.default_rng(seed)
    if name not in _GRIDS and math.prod(space.n_values.tolist()) <= evaluations:
        return Exhaustive(space.n_values)
    if name == "random":
        return RandomSearch(space.n_values, rng)
    if name in _GRIDS:
        return Grid(space, evaluator.costs, evaluations)
    if name in ("nsga2", "nsga3"):
        from encas.search.nsga import Nsga  # noqa: PLC0415 - pymoo takes half a second to import

        return Nsga(name, space.n_values, rng, seeds=seeds)
    if name == "mo-gomea-2018" or space.ensemble:
        return MoGomea(space.n_values, 2, rng, seeds=seeds, canonical=space.compact)
    return MoGomea(
        space.n_values,
        2,
        rng,
        seeds=seeds,
        canonical=space.compact,
        loosened=space.loosened,
        alphabets=space.alphabets(evaluator.costs),
    )
