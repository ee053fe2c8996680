"""What a cascade would have answered, from the recorded outputs of its members."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Answers, Cascade, Evaluated, Rows, Stage, exit_fractions, run_cascade
from encas.errors import InvalidInput
from encas.held_out import HeldOut
from encas.interval import predict
from encas.pool import Pool


def recorded_answers(
    cascade: Cascade, pool: Pool, split: str, rows: NDArray[np.intp] | None = None
) -> Answers:
    """Run a cascade on a split's recorded probabilities, or on those of some of its rows.

    Raises:
        InvalidInput: The pool lacks a member, or its outputs for the split.
    """
    outputs = [pool.probs(name, split) for name in cascade.member_names]
    macs = [pool.member(name).macs for name in cascade.member_names]

    def member_probs(stage: int, active: Rows) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        return outputs[stage][active if rows is None else rows[active]]

    return run_cascade(cascade, member_probs, pool.split(split).n if rows is None else len(rows), macs)


def evaluate(cascade: Cascade, pool: Pool, split: str, rows: NDArray[np.intp] | None = None) -> Evaluated:
    """Accuracy, mean cost and exits of a cascade on a split, or on some of its rows."""
    return _evaluated(cascade, pool, split, rows)[0]


def report(cascade: Cascade, pool: Pool, held_out: HeldOut) -> Evaluated:
    """Do the same on samples that were kept out of a search, and say what to expect on a test split.

    Who has no split named test yet is told what to expect on as many samples as the searched split has.
    """
    split = held_out.searched.split
    found, is_right = _evaluated(cascade, pool, split, held_out.rows)
    new_n = pool.file.splits.get("test", pool.split(split)).n
    interval = predict(found.accuracy, held_out.worth(is_right), new_n)
    return found.model_copy(update={"interval": interval})


def _evaluated(
    cascade: Cascade, pool: Pool, split: str, rows: NDArray[np.intp] | None
) -> tuple[Evaluated, NDArray[np.bool_]]:
    answers = recorded_answers(cascade, pool, split, rows)
    labels = pool.labels(split)
    is_right = answers.label == (labels if rows is None else labels[rows])
    found = Evaluated(
        n=len(is_right),
        accuracy=float(np.mean(is_right)),
        macs=float(np.mean(answers.macs)),
        exit_fractions=exit_fractions(answers.exit_stage, len(cascade.stages)),
    )
    return found, is_right


def evaluate_members(pool: Pool, split: str) -> dict[str, Evaluated]:
    """Every member on its own, by name: the same as a cascade of one stage."""
    return {
        member.name: evaluate(Cascade(stages=(Stage(member=member.name),)), pool, split)
        for member in pool.members_with(split)
    }


def with_interval(found: Evaluated) -> Evaluated:
    """Add what accuracy to expect on as many other samples; nothing may have been chosen by these."""
    return found.model_copy(update={"interval": predict(found.accuracy, found.n, found.n)})


def best_within(members: Mapping[str, Evaluated], macs: float) -> str | None:
    """Name the most accurate member of no more cost, the cheapest of equally accurate ones."""
    fitting = [name for name, found in members.items() if found.macs <= macs]
    return min(fitting, key=lambda name: (-members[name].accuracy, members[name].macs), default=None)


def cheapest_reaching(members: Mapping[str, Evaluated], accuracy: float) -> str | None:
    """Name the cheapest member of no less accuracy, the most accurate of equally cheap ones."""
    fitting = [name for name, found in members.items() if found.accuracy >= accuracy]
    return min(fitting, key=lambda name: (members[name].macs, -members[name].accuracy), default=None)


def pool_of(cascade: Cascade, pool: Path | None, place: Path) -> Pool:
    """Open the pool that is named, or else the one that the cascade of a file names."""
    if pool is None and cascade.pool is None:
        raise InvalidInput(f"{place}: does not say which pool it is from; state it: --pool POOL")
    return Pool.open(pool if pool is not None else cascade.pool.path if cascade.pool is not None else "")
