"""A cascade that was found, as a candidate of a front."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encas.cascade import Cascade, Evaluated
from encas.evaluation import report
from encas.front import Candidate
from encas.search.pareto import non_dominated
from encas.search.problem import Problem


@dataclass(frozen=True)
class Found:
    """A cascade, and what was counted of it on the samples that were searched on."""

    cascade: Cascade
    right: int
    reached: tuple[int, ...]  # samples that each stage was run for; may go on with zeros
    error: float
    cost: float

    def candidate(self, problem: Problem) -> Candidate:
        """Describe the cascade without the stages at its end that no sample gets to."""
        runs = [count for count in self.reached if count > 0]
        *before, last = self.cascade.stages[: len(runs)]
        macs = [problem.pool.member(stage.member).macs for stage in (*before, last)]
        n = runs[0]
        leaving = np.diff(runs, append=0).tolist()
        evaluated = Evaluated(
            n=n,
            accuracy=self.right / n,
            macs=sum(count * of_one for count, of_one in zip(runs, macs, strict=True)) / n,
            exit_fractions=tuple(-count / n for count in leaving),
        )
        update = {
            "stages": (*before, last.model_copy(update={"threshold": None})),
            "evaluated": {problem.split: evaluated},
            "searched": problem.held_out.searched,
            "pool": problem.reference,
        }
        cascade = _reported(problem, self.cascade.model_copy(update=update))
        return Candidate(error=self.error, cost=self.cost, cascade=cascade)


def front_of(found: Sequence[Found]) -> list[Found]:
    """Those that none of the others dominates, by rising cost."""
    points = np.array([[one.error, one.cost] for one in found]).reshape(-1, 2)
    return [found[row] for row in non_dominated(points)]


def _reported(problem: Problem, cascade: Cascade) -> Cascade:
    """Add what a cascade does on the part that was kept out."""
    held_out = problem.held_out
    if not len(held_out.rows):
        return cascade
    found = report(cascade, problem.pool, held_out)
    evaluated = {**cascade.evaluated, held_out.searched.report: found}
    return cascade.model_copy(update={"evaluated": evaluated})
