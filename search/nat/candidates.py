"""Which architectures to evaluate next: a search on predictions, and a choice along the whole front."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import NSGA3, ReferenceDirectionSurvival  # type: ignore[import-untyped]
from pymoo.core.population import Population  # type: ignore[import-untyped]
from pymoo.core.problem import Problem  # type: ignore[import-untyped]
from pymoo.operators.crossover.ux import UniformCrossover  # type: ignore[import-untyped]
from pymoo.operators.mutation.pm import PM  # type: ignore[import-untyped]
from pymoo.operators.repair.rounding import RoundingRepair  # type: ignore[import-untyped]
from pymoo.optimize import minimize  # type: ignore[import-untyped]

from encas.search.gomea import MoGomea

Genes = NDArray[np.int64]  # (p, g)
Numbers = NDArray[np.float64]
Guess = Callable[[Genes], Numbers]  # (p, g) -> (p, 2) predicted error and MACs
Canonical = Callable[[Genes], Genes]

_POPULATION = 100


def search_nsga3(
    guess: Guess, known: Genes, low: Genes, high: Genes, *, evaluations: int, seed: int, canonical: Canonical
) -> tuple[Genes, Numbers]:
    """Minimise predictions by NSGA-III, starting from what is known.

    Args:
        guess: Objectives of canonical genes.
        known: (a, g) genes of the archive.
        low: (g,) least value of each gene.
        high: (g,) largest value of each gene.
        evaluations: Predictions to make, a hundred by generation.
        seed: Of pymoo's generator.
        canonical: Brings genes into the form that is unique for an architecture.

    Returns:
        Genes and objectives of the final population.
    """
    problem = _Predicted(guess, canonical, low, high)
    algorithm = NSGA3(
        ref_dirs=_directions(_POPULATION),
        pop_size=_POPULATION,
        sampling=np.asarray(known, float),
        crossover=UniformCrossover(prob=0.9, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=0.1, eta=1, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    found = minimize(problem, algorithm, ("n_gen", max(1, evaluations // _POPULATION)), seed=seed)
    genes = canonical(np.round(found.pop.get("X")).astype(np.int64))
    return genes, np.asarray(found.pop.get("F"), np.float64)


def search_gomea(
    guess: Guess, low: Genes, high: Genes, *, evaluations: int, seed: int, canonical: Canonical
) -> tuple[Genes, Numbers]:
    """Minimise predictions by MO-GOMEA; returns its archive."""
    algorithm = MoGomea(
        (high - low + 1).astype(np.intp),
        2,
        np.random.default_rng(seed),
        canonical=lambda genomes: (canonical(genomes + low) - low).astype(np.intp),
    )
    done = 0
    while done < evaluations:
        genomes = algorithm.ask()
        algorithm.tell(guess(genomes.astype(np.int64) + low))
        done += len(genomes)
    archive = algorithm.archive
    return archive.genomes.astype(np.int64) + low, archive.objectives.copy()


def choose(genes: Genes, objectives: Numbers, n: int, seed: int) -> NDArray[np.intp]:
    """Choose rows along the front by the survival of NSGA-III; of equal genes only one.

    Returns:
        Up to n rising rows.
    """
    first = np.sort(np.unique(genes, axis=0, return_index=True)[1])
    if len(first) <= n:
        return first
    population = Population.new(X=genes[first].astype(float), F=objectives[first], row=first)
    problem = Problem(n_var=genes.shape[1], n_obj=2)
    survival = ReferenceDirectionSurvival(_directions(n))
    kept = survival.do(problem, population, n_survive=n, random_state=np.random.default_rng(seed))
    return np.sort(np.asarray(kept.get("row"), np.intp))


class _Predicted(Problem):  # type: ignore[misc]  # pymoo has no types
    """The space with predictions for objectives."""

    def __init__(self, guess: Guess, canonical: Canonical, low: Genes, high: Genes) -> None:
        super().__init__(n_var=len(low), n_obj=2, xl=low.astype(float), xu=high.astype(float))
        self._guess, self._canonical = guess, canonical

    def _evaluate(self, x: NDArray[np.float64], out: dict[str, Any], *_: Any, **__: Any) -> None:
        out["F"] = self._guess(self._canonical(np.round(x).astype(np.int64)))


def _directions(n: int) -> Numbers:
    """(n, 2) evenly spaced directions; for two objectives the least Riesz energy has the same."""
    first = np.linspace(0, 1, n)
    return np.column_stack([first, 1 - first])
