"""How a search came along: the front after ever more evaluations."""

import numpy as np

from encas.pool import Pool
from encas.search.algorithms import algorithm_of, landscape_of, most_stages
from encas.search.drive import Watch, drive
from encas.search.evaluate import Evaluator
from encas.search.experiment.config import Searched
from encas.search.experiment.results import Traced
from encas.search.ledger import Evaluations, Ledger
from encas.search.pareto import non_dominated
from encas.search.problem import Problem

_POINTS = 24  # of a curve
_FIRST = 50  # evaluations


def traced(pool: Pool, split: str, told: Searched, seed: int, workers: int) -> Traced:
    """Search again, as `encas.search.run.search` does, and say what was found when.

    Counted are cascades that are different, each when it was first evaluated.
    """
    problem = Problem.of(pool, split, "macs", most_stages(told.algorithm, told.max_stages))
    evaluator = Evaluator.open(
        pool, split, problem.members, problem.costs, max_stages=problem.max_stages, workers=workers
    )
    landscape = landscape_of(told.algorithm, evaluator, problem.names)
    none = np.empty((0, landscape.space.n_genes), np.intp)
    algorithm = algorithm_of(told.algorithm, landscape, evaluator, told.evaluations, seed, none)
    ledger = Ledger(
        landscape.space.compact,
        landscape.evaluate,
        told.evaluations,
        Evaluations.none(landscape.space.n_genes),
    )
    reference = (1.0, problem.most)
    drive(algorithm, ledger, np.array(reference) / 100, Watch(ledger, reference))
    objectives = ledger.evaluated_since(0)
    ends = np.unique(np.geomspace(_FIRST, max(len(objectives), _FIRST), _POINTS).astype(int))
    ends = np.unique(np.minimum(ends, len(objectives)))
    fronts = [objectives[:end][non_dominated(objectives[:end])] for end in ends]
    return Traced(
        evaluations=tuple(int(end) for end in ends),
        points=tuple(tuple((e, c) for e, c in front.tolist()) for front in fronts),
    )
