"""The search: from a pool to a front."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from encas import __version__
from encas.cascade import Cascade, Evaluated, PoolReference, Stage
from encas.cost import CostModel, Objective, cost_model, taking_part
from encas.errors import InvalidInput, require
from encas.evaluation import evaluate, report
from encas.front import Candidate, Front, FrontFile, Single
from encas.held_out import HeldOut
from encas.pool import Member, Pool
from encas.refinement import Corrections
from encas.search.algorithm import Algorithm, Genomes, Objectives
from encas.search.checkpoint import Checkpoint
from encas.search.drive import Progress, Watch, drive
from encas.search.evaluate import Evaluator
from encas.search.exhaustive import Exhaustive
from encas.search.genome import Space
from encas.search.gomea import MoGomea
from encas.search.ledger import Evaluations, Ledger
from encas.search.pareto import non_dominated
from encas.search.picture import draw
from encas.search.random import RandomSearch

AlgorithmName = Literal["mo-gomea", "random"]
ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)


@dataclass(frozen=True)
class Problem:
    """What is searched on: everything that error and cost of a cascade depend on."""

    pool: Pool
    split: str
    objective: Objective
    members: tuple[Member, ...]
    costs: CostModel
    max_stages: int
    held_out: HeldOut

    @classmethod
    def of(
        cls,
        pool: Pool,
        split: str,
        objective: str,
        max_stages: int,
        report_fraction: float = 0.0,
        corrections: Corrections | None = None,
    ) -> "Problem":
        """Take every member with outputs on a split."""
        goal = Objective.parse(objective)
        members = taking_part(pool.members_with(split), goal)
        # A member after itself changes no answer.
        stages = 1 if len(members) == 1 else max_stages
        held_out = HeldOut.of(pool, split, report_fraction)
        costs = cost_model(members, goal, len(held_out.rest), corrections)
        return cls(pool, split, goal, members, costs, stages, held_out)

    @cached_property
    def reference(self) -> PoolReference:
        """Where the pool lies."""
        return PoolReference(path=str(self.pool.path.resolve()), sha256=self.pool.sha256)

    @property
    def digest(self) -> str:
        """Says whether two problems are the same."""
        names = [member.name for member in self.members]
        times = [member.model_dump(mode="json")["latency"] for member in self.members]
        costs = "macs" if self.objective.kind == "macs" else [str(self.objective), times]
        searched = self.held_out.searched.model_dump(mode="json")
        content = [self.pool.sha256, searched, names, costs, self.max_stages, __version__]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def search(
    pool: Pool,
    *,
    evaluations: int = 600_000,
    seed: int = 0,
    algorithm: AlgorithmName = "mo-gomea",
    objective: str = "macs",
    max_stages: int = 5,
    split: str = "val",
    report_fraction: float = 0.0,
    workers: int = 1,
    seed_singles: bool = False,
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
        algorithm: "mo-gomea" or "random".
        objective: See `encas.cost.Objective.parse`.
        max_stages: Length of the longest cascade.
        split: The labelled samples that errors and costs are counted on.
        report_fraction: This part of the split is kept out of the search, and the front states besides what
            its cascades do there (`encas.held_out`): figures that nothing was chosen by, with intervals.
        workers: How many evaluate at the same time.
        seed_singles: Evaluate every member on its own first, and start from the best. The paper does not.
        start: Cascades of an earlier front of the same members, to go on from.
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
    _check(evaluations=evaluations, max_stages=max_stages, workers=workers)
    if seed < 0:
        raise InvalidInput(f"seed: must be at least 0, got {seed}")
    if algorithm not in ALGORITHMS:
        raise InvalidInput(f"algorithm '{algorithm}': must be one of {', '.join(ALGORITHMS)}")
    problem = Problem.of(pool, split, objective, max_stages, report_fraction, corrections)
    checkpoint = None if out is None else _prepared(Path(out), problem)

    evaluator = Evaluator.open(
        pool,
        split,
        problem.members,
        problem.costs,
        max_stages=problem.max_stages,
        workers=workers,
        rows=problem.held_out.rest,
    )
    space = evaluator.space
    earlier = checkpoint.read(space.n_genes) if checkpoint else Evaluations.none(space.n_genes)
    ledger = Ledger(space.compact, evaluator.of_canonical, evaluations, earlier)
    singles = _singles(space)
    names = [member.name for member in problem.members]
    known = [space.genome(cascade, names) for cascade in start]
    seeds = np.array([*(singles if seed_singles else singles[:0]), *known]).reshape(-1, space.n_genes)
    ledger.objectives(seeds)
    exhaustive = math.prod(space.n_values.tolist()) <= evaluations
    chosen = Exhaustive(space.n_values) if exhaustive else _algorithm(algorithm, space, seed, seeds)
    most = float(problem.costs.singles.max()) or 1.0
    watch = Watch(ledger, (1.0, most), progress, checkpoint, checkpoint_every_s)
    # In percent of what a single member can reach, which is the scale of the algorithm's tolerance.
    drive(chosen, ledger, np.array([0.01, most / 100]), watch)

    if Pool.open(pool.path).sha256 != pool.sha256:
        raise InvalidInput(f"{pool.path}: changed while it was searched; search again")
    evaluator.check()
    candidates = _candidates(problem, evaluator, ledger.evaluations)
    file = FrontFile(
        pool=problem.reference,
        split=split,
        objective=str(problem.objective),
        unit=problem.objective.unit,
        algorithm=algorithm,
        seed=seed,
        settings={
            "evaluations": evaluations,
            "exhaustive": exhaustive,
            "max_stages": max_stages,
            "report_fraction": report_fraction,
            "seed_singles": seed_singles,
        },
        evaluations={"genotypes": ledger.n_genotypes, "phenotypes": len(ledger.evaluations.genomes)},
        versions={"encas": __version__, "numpy": np.__version__},
        singles=_described(problem, evaluator.objectives(singles)),
        candidates=candidates,
        seconds=time.monotonic() - started_s,
    )
    front = Front(Path("front" if out is None else out), file)
    if checkpoint is not None:
        front.write()
        draw(front)
        checkpoint.remove()
    return front


def _check(**settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise InvalidInput(f"{name}: must be at least 1, got {value}")


def _prepared(out: Path, problem: Problem) -> Checkpoint:
    """See to it that the front can be written when it has been found."""
    require("matplotlib", "search")
    require("plotly", "search")
    out.mkdir(parents=True, exist_ok=True)
    return Checkpoint(out / "checkpoint.npz", problem.digest)


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


def _singles(space: Space) -> Genomes:
    """(m, g) every member on its own."""
    genomes = np.zeros((space.n_members, space.n_genes), np.intp)
    genomes[:, 0] = np.arange(1, space.n_members + 1)
    return genomes


def _algorithm(name: AlgorithmName, space: Space, seed: int, seeds: Genomes) -> Algorithm:
    rng = np.random.default_rng(seed)
    if name == "random":
        return RandomSearch(space.n_values, rng)
    return MoGomea(space.n_values, 2, rng, seeds=seeds, canonical=space.compact)


def _candidates(problem: Problem, evaluator: Evaluator, evaluations: Evaluations) -> tuple[Candidate, ...]:
    """What nothing evaluated dominates, by rising cost."""
    real = np.flatnonzero(evaluations.genomes.any(axis=1))
    rows = real[non_dominated(evaluations.objectives[real])]
    if not len(rows):
        raise InvalidInput(f"{len(evaluations.genomes)} evaluations found no cascade; allow more evaluations")
    genomes, objectives = evaluations.genomes[rows], evaluations.objectives[rows].tolist()
    counts = evaluator.counts(genomes)
    names = [member.name for member in problem.members]
    return tuple(
        _candidate(problem, evaluator.space.cascade(genome, names), right, reached, error, cost)
        for genome, right, reached, (error, cost) in zip(
            genomes, counts.right.tolist(), counts.reached.tolist(), objectives, strict=True
        )
    )


def _candidate(
    problem: Problem, cascade: Cascade, right: int, reached: list[int], error: float, cost: float
) -> Candidate:
    """Describe a cascade without the stages at its end that no sample gets to."""
    runs = [count for count in reached if count > 0]
    *before, last = cascade.stages[: len(runs)]
    macs = [problem.pool.member(stage.member).macs for stage in (*before, last)]
    n = runs[0]
    leaving = np.diff(runs, append=0).tolist()
    found = Evaluated(
        n=n,
        accuracy=right / n,
        macs=sum(count * of_one for count, of_one in zip(runs, macs, strict=True)) / n,
        exit_fractions=tuple(-count / n for count in leaving),
    )
    update = {
        "stages": (*before, last.model_copy(update={"threshold": None})),
        "evaluated": {problem.split: found},
        "searched": problem.held_out.searched,
        "pool": problem.reference,
    }
    return Candidate(error=error, cost=cost, cascade=_reported(problem, cascade.model_copy(update=update)))


def _reported(problem: Problem, cascade: Cascade) -> Cascade:
    """Add what a cascade does on the part that was kept out."""
    held_out = problem.held_out
    if not len(held_out.rows):
        return cascade
    found = report(cascade, problem.pool, held_out)
    evaluated = {**cascade.evaluated, held_out.searched.report: found}
    return cascade.model_copy(update={"evaluated": evaluated})
