"""Moves the thresholds of a front's cascades to where they serve best, off the grid that was searched."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade, Combine, Stage
from encas.search.drive import Progress
from encas.search.evaluate import Counts, Evaluator
from encas.search.found import Found, front_of
from encas.search.genome import NEVER
from encas.search.grid import most_members
from encas.search.pareto import hypervolume, non_dominated, ranked
from encas.search.sweep import Table, sweep

# A sweep counts as the evaluations that it stands for: one for every threshold of the grid above 0.
SWEEP = NEVER
SHARE = 0.25  # of a search's budget that is left for sweeps
_FOR_PAIRS = 0.5  # of the sweeps
_KINDS: tuple[Combine, ...] = ("mean", "last")
_AT_ONCE = 32  # sweeps until it is looked anew where the front has its widest gaps


@dataclass
class Refiner:
    """Sweeps one stage of one cascade after the other, until none is left or the budget is spent.

    First, cascades of two stages, of the members that are best alone; those that answer with the mean, and
    those whose latest stage answers alone. Then the candidates of the front: those beside its widest gaps
    come first, and what a sweep finds may be swept at its other stages. When all of that was swept, the same
    cascades answering in the other way.

    Attributes:
        evaluator: Of what was searched on.
        names: (m,) of the members.
        budget: How many sweeps there may be.
        workers: Threads; the results do not depend on their number.
        progress: Whom to tell.
    """

    evaluator: Evaluator
    names: Sequence[str]
    budget: int
    workers: int = 1
    progress: Progress | None = None
    sweeps: int = field(default=0, init=False)
    _tables: dict[tuple[str, ...], Table] = field(default_factory=dict, init=False)
    _done: set[tuple[object, ...]] = field(default_factory=set, init=False)

    def refine(self, found: Sequence[Found]) -> list[Found]:
        """Return a front of which no point is worse than before, by rising cost."""
        front, todo = front_of(found), self._pairs()
        while todo or (todo := self._todo(front)):
            front = front_of([*front, *self._sweep(todo)])
            self._tell(len(todo), front)
            todo = []
        return front

    def _tell(self, n: int, front: Sequence[Found]) -> None:
        if self.progress is not None:
            most = float(self.evaluator.costs.max()) or 1.0
            share = hypervolume(np.array([[one.error, one.cost] for one in front]), (1.0, most))
            self.progress(n * SWEEP, f"{self.sweeps} sweeps, hypervolume {share:.4f}")

    def _pairs(self) -> list[tuple[Cascade, int]]:
        """Pair the best members, the cheaper one first."""
        if self.evaluator.space.max_stages < 2:
            return []
        costs = self.evaluator.costs
        alone = self.evaluator.table(np.arange(len(self.names)), "last")
        best = ranked(np.column_stack([-alone.is_right.mean(axis=1), costs]))
        best = best[: most_members(len(best), 2, int(_FOR_PAIRS * self.budget) // len(_KINDS))]
        rising = best[np.lexsort((best, costs[best]))].tolist()
        pairs = combinations(rising, 2) if len(best) > 1 else ()
        return [
            (Cascade(stages=(self._stage(one, 1.0), self._stage(other)), combine=kind), 0)
            for one, other in pairs
            for kind in _KINDS
        ]

    def _stage(self, member: int, threshold: float | None = None) -> Stage:
        return Stage(member=self.names[member], threshold=threshold)

    def _todo(self, front: Sequence[Found]) -> list[tuple[Cascade, int]]:
        """Choose what to sweep next."""
        widest = [front[row].cascade for row in _by_gaps(front)]
        swept = [(cascade, stage) for cascade in widest for stage in range(len(cascade.stages) - 1)]
        others = [(_otherwise(cascade), stage) for cascade, stage in swept]
        todo: dict[tuple[object, ...], tuple[Cascade, int]] = {}
        most = min(_AT_ONCE, self.budget - self.sweeps)
        for cascade, stage in [*swept, *others]:
            if len(todo) >= most:
                break
            line = _line(cascade, stage)
            if line not in self._done:
                todo.setdefault(line, (cascade, stage))
        return list(todo.values())

    def _sweep(self, todo: Sequence[tuple[Cascade, int]]) -> list[Found]:
        """Sweep stages of cascades, and return what may be on the front."""
        for cascade, stage in todo:
            self._done.add(_line(cascade, stage))
            if _kind(cascade) not in self._tables:
                self._tables[_kind(cascade)] = self.evaluator.table(self._members(cascade), cascade.combine)
        with ThreadPoolExecutor(self.workers) as threads:
            swept = list(threads.map(lambda one: self._swept(*one), todo))
        self.sweeps += len(todo)
        return [found for some in swept for found in some]

    def _swept(self, cascade: Cascade, stage: int) -> list[Found]:
        """Return what is not dominated among a cascade's variants."""
        found = sweep(
            self._tables[_kind(cascade)], [step.threshold or 0.0 for step in cascade.stages[:-1]], stage
        )
        q, k = found.reached.shape
        genomes, reached = np.zeros((2, q, self.evaluator.space.max_stages), np.int64)
        genomes[:, :k], reached[:, :k] = self._members(cascade) + 1, found.reached
        objectives = self.evaluator.priced(genomes, Counts(found.right, reached))
        variants = []
        for row in non_dominated(objectives).tolist():
            step = cascade.stages[stage].model_copy(update={"threshold": found.threshold(row)})
            stages = (*cascade.stages[:stage], step, *cascade.stages[stage + 1 :])
            variants.append(
                Found(
                    cascade.model_copy(update={"stages": stages}),
                    int(found.right[row]),
                    tuple(found.reached[row].tolist()),
                    *objectives[row].tolist(),
                )
            )
        return variants

    def _members(self, cascade: Cascade) -> NDArray[np.intp]:
        return np.array([self.names.index(name) for name in cascade.member_names], np.intp)


def _kind(cascade: Cascade) -> tuple[str, ...]:
    """Everything that a table depends on."""
    return cascade.combine, *cascade.member_names


def _line(cascade: Cascade, stage: int) -> tuple[object, ...]:
    """Name all cascades that differ from this one in the threshold of a stage only."""
    thresholds = [step.threshold for step in cascade.stages]
    return *_kind(cascade), *thresholds[:stage], stage, *thresholds[stage + 1 :]


def _otherwise(cascade: Cascade) -> Cascade:
    """Let a cascade answer with its latest stage alone instead of the mean, or the other way round."""
    return cascade.model_copy(update={"combine": "last" if cascade.combine == "mean" else "mean"})


def _by_gaps(front: Sequence[Found]) -> list[int]:
    """Order a front by the areas that lie open beside each candidate, the largest first."""
    if not front:
        return []
    errors, costs = np.array([[one.error, one.cost] for one in front]).T
    gaps = np.concatenate([[0.0], -np.diff(errors) * np.diff(costs), [0.0]])
    order: list[int] = np.argsort(-(gaps[1:] + gaps[:-1]), kind="stable").tolist()
    return order
