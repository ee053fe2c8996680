"""The search: from a pool to a front."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from encas import __version__
from encas.cascade import Cascade, Stage
from encas.errors import InvalidInput, require
from encas.evaluation import evaluate
from encas.front import Front, FrontFile, Single
from encas.pool import Member, Pool
from encas.refinement import Corrections
from encas.search.algorithm import Objectives
from encas.search.algorithms import (
    ALGORITHMS,
    REFINABLE,
    AlgorithmName,
    algorithm_of,
    kind_of,
    landscape_of,
    most_stages,
)
from encas.search.checkpoint import Checkpoint
from encas.search.drive import Progress, Watch, drive
from encas.search.evaluate import Evaluator
from encas.search.exhaustive import Exhaustive
from encas.search.found import Found, front_of
from encas.search.greedy import Greedy, Outputs
from encas.search.landscape import Landscape
from encas.search.ledger import Evaluations, Ledger
from encas.search.picture import draw
from encas.search.problem import Problem
from encas.search.refine import SHARE, SWEEP, Refiner

REPORT_FRACTION = 0.3  # as the command line has it


def search(
    pool: Pool,
    *,
    evaluations: int = 600_000,
    seed: int = 0,
    algorithm: AlgorithmName = "mo-gomea",
    objective: str = "macs",
    max_stages: int = 5,
    split: str = "val",
    report_fraction: float = REPORT_FRACTION,
    workers: int = 1,
    seed_singles: bool = False,
    refine_thresholds: bool | None = None,
    start: Sequence[Cascade] = (),
    corrections: Corrections | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    checkpoint_every_s: float = 60.0,
) -> Front:
    """Find cascades that trade error against cost.

    The same seed gives the same front, whatever `workers` is. A space of no more genotypes than
    `evaluations` is evaluated completely instead of searched.

    Args:
        pool: Every member with outputs on `split` takes part.
        evaluations: Budget: genotypes that were not asked for before. Many of them mean the same cascade
            (a gap between the stages elsewhere, a threshold beside a gap) and are evaluated once; the front
            states both numbers. The search ends earlier when it has found nothing new for long.
        seed: Of the algorithm's generator.
        algorithm: One of `encas.search.algorithms.ALGORITHMS`; docs/search.md says what each of them does.
        objective: See `encas.cost.Objective.parse`.
        max_stages: Length of the longest cascade.
        split: The labelled samples that errors and costs are counted on.
        report_fraction: This part of the split is kept out of the search, and the front states besides what
            its cascades do there (`encas.held_out`): figures that nothing was chosen by, with intervals.
            0 searches on all, and there are no such figures.
        workers: How many evaluate at the same time.
        seed_singles: Evaluate every member on its own first, and start from the best. The paper does not.
            Greedy and grids look at them anyway.
        refine_thresholds: Move the thresholds of what was found off the grid that was searched
            (`encas.search.refine`), for a quarter of `evaluations`; None: with "mo-gomea" only.
        start: Cascades of an earlier front of the same members, to go on from, their thresholds rounded to
            the grid that is searched; greedy starts from nothing.
        corrections: Of predicted times, see `encas.search.device`; not for a search that writes to `out`.
        out: Folder for `front.json` and the pictures. While the search runs its evaluations are kept there,
            and the same call goes on from them after an interruption, to the same end.
        progress: Called now and then with the evaluations since the last call and a few words.
        checkpoint_every_s: How often the evaluations are kept.

    Raises:
        InvalidInput: An argument is out of range, the pool lacks what is needed, or it changed meanwhile.

    Source: Chebykin et al., GECCO 2022, arXiv:2203.04011.
    """
    started_s = time.monotonic()
    plan = _Plan(evaluations, seed, algorithm, max_stages, report_fraction, workers, seed_singles)
    plan = replace(plan, refines=algorithm == "mo-gomea" if refine_thresholds is None else refine_thresholds)
    plan.check()
    problem = Problem.of(
        pool, split, objective, most_stages(algorithm, max_stages), report_fraction, corrections
    )
    checkpoint = None if out is None else _prepared(Path(out), problem, algorithm)
    evaluator = Evaluator.open(
        pool,
        split,
        problem.members,
        problem.costs,
        max_stages=problem.max_stages,
        workers=workers,
        rows=problem.held_out.rest,
    )
    if algorithm == "greedy":
        outcome = _built(problem, plan.budget, progress)
    else:
        outcome = _asked(plan, problem, evaluator, start, progress, checkpoint, checkpoint_every_s)
    if plan.refines and outcome.found:
        outcome = _refined(outcome, evaluator, problem, plan, progress)
    if not outcome.found:
        raise InvalidInput(f"{outcome.genotypes} evaluations found no cascade; allow more evaluations")
    if Pool.open(pool.path).sha256 != pool.sha256:
        raise InvalidInput(f"{pool.path}: changed while it was searched; search again")
    evaluator.check()
    file = _file(plan, problem, evaluator, outcome, started_s)
    front = Front(Path("front" if out is None else out), file)
    if checkpoint is not None:
        front.write()
        draw(front)
        checkpoint.remove()
    return front


@dataclass(frozen=True)
class _Plan:
    """What was asked for; see `search`."""

    evaluations: int
    seed: int
    algorithm: AlgorithmName
    max_stages: int
    report_fraction: float
    workers: int
    seed_singles: bool
    refines: bool = False

    def check(self) -> None:
        """Refuse what cannot be done."""
        for name in ("evaluations", "max_stages", "workers"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise InvalidInput(f"seed: must be at least 0, got {self.seed}")
        if self.algorithm not in ALGORITHMS:
            raise InvalidInput(f"algorithm '{self.algorithm}': must be one of {', '.join(ALGORITHMS)}")
        if self.refines and self.algorithm not in REFINABLE:
            raise InvalidInput(f"algorithm '{self.algorithm}': its thresholds cannot be refined")

    @property
    def budget(self) -> int:
        """Evaluations of the algorithm; the others are for sweeps."""
        sweeps = int(SHARE * self.evaluations) // SWEEP if self.refines else 0
        return self.evaluations - sweeps * SWEEP


@dataclass(frozen=True)
class _Outcome:
    """What a search found, and how much it looked at."""

    found: Sequence[Found]  # by rising cost
    genotypes: int
    phenotypes: int
    exhaustive: bool = False
    sweeps: int = 0


def _asked(
    plan: _Plan,
    problem: Problem,
    evaluator: Evaluator,
    start: Sequence[Cascade],
    progress: Progress | None,
    checkpoint: Checkpoint | None,
    checkpoint_every_s: float,
) -> _Outcome:
    """Let an algorithm ask until it ends, or the budget is spent."""
    landscape = landscape_of(plan.algorithm, evaluator, problem.names)
    seeds = landscape.genomes(start)
    if plan.seed_singles:
        seeds = np.concatenate([landscape.singles(), seeds])
    algorithm = algorithm_of(plan.algorithm, landscape, evaluator, plan.budget, plan.seed, seeds)
    n_genes = landscape.space.n_genes
    earlier = Evaluations.none(n_genes) if checkpoint is None else checkpoint.read(n_genes)
    ledger = Ledger(landscape.space.compact, landscape.evaluate, plan.budget, earlier)
    ledger.objectives(seeds)
    watch = Watch(ledger, (1.0, problem.most), progress, checkpoint, checkpoint_every_s)
    # In percent of what a single member can reach, which is the scale of the algorithm's tolerance.
    drive(algorithm, ledger, np.array(watch.reference) / 100, watch)
    watch.keep()
    return _Outcome(
        landscape.front(ledger.evaluations),
        ledger.n_genotypes,
        len(ledger.evaluations.genomes),
        isinstance(algorithm, Exhaustive),
    )


def _built(problem: Problem, budget: int, progress: Progress | None) -> _Outcome:
    """Build cascades greedily."""
    outputs = Outputs.recorded(problem.pool, problem.split, problem.names, problem.held_out.rest)
    greedy = Greedy(outputs, problem.names, problem.costs, problem.max_stages, budget)
    found = greedy.run(progress)
    return _Outcome(front_of(found), greedy.spent, len(found))


def _refined(
    outcome: _Outcome, evaluator: Evaluator, problem: Problem, plan: _Plan, progress: Progress | None
) -> _Outcome:
    """Refine thresholds for what is left of the evaluations."""
    budget = (plan.evaluations - outcome.genotypes) // SWEEP
    refiner = Refiner(evaluator, problem.names, budget, plan.workers, progress)
    return replace(outcome, found=refiner.refine(outcome.found), sweeps=refiner.sweeps)


def _file(
    plan: _Plan, problem: Problem, evaluator: Evaluator, outcome: _Outcome, started_s: float
) -> FrontFile:
    """Write down what was found, and how."""
    singles = Landscape.averaged(evaluator, problem.names).singles()
    return FrontFile(
        pool=problem.reference,
        split=problem.split,
        objective=str(problem.objective),
        unit=problem.objective.unit,
        algorithm=plan.algorithm,
        seed=plan.seed,
        settings={
            "evaluations": plan.evaluations,
            "exhaustive": outcome.exhaustive,
            "max_stages": plan.max_stages,
            "refine_thresholds": plan.refines,
            "report_fraction": plan.report_fraction,
            "seed_singles": plan.seed_singles,
        },
        evaluations={
            "genotypes": outcome.genotypes,
            "phenotypes": outcome.phenotypes,
            "sweeps": outcome.sweeps,
        },
        versions={"encas": __version__, "numpy": np.__version__},
        singles=_described(problem, evaluator.objectives(singles)),
        candidates=tuple(found.candidate(problem) for found in outcome.found),
        seconds=time.monotonic() - started_s,
    )


def _prepared(out: Path, problem: Problem, algorithm: AlgorithmName) -> Checkpoint:
    """See to it that the front can be written when it has been found."""
    require("matplotlib", "search")
    require("plotly", "search")
    out.mkdir(parents=True, exist_ok=True)
    return Checkpoint(out / "checkpoint.npz", f"{problem.digest}-{kind_of(algorithm)}")


def _described(problem: Problem, objectives: Objectives) -> tuple[Single, ...]:
    return tuple(
        Single(member=member.name, error=error, cost=cost, report_error=_report_error(problem, member))
        for member, (error, cost) in zip(problem.members, objectives.tolist(), strict=True)
    )


def _report_error(problem: Problem, member: Member) -> float | None:
    """Error of a member on the part that was kept out."""
    if not len(problem.held_out.rows):
        return None
    alone = Cascade(stages=(Stage(member=member.name),))
    return 1 - evaluate(alone, problem.pool, problem.split, problem.held_out.rows).accuracy
