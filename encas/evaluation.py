"""What a cascade would have answered, from the recorded outputs of its members."""

from collections.abc import Mapping

import numpy as np

from encas.cascade import Answers, Cascade, Evaluated, Rows, Stage, exit_fractions, run_cascade
from encas.pool import Pool


def recorded_answers(cascade: Cascade, pool: Pool, split: str) -> Answers:
    """Run a cascade on a split's recorded probabilities.

    Raises:
        InvalidInput: The pool lacks a member, or its outputs for the split.
    """
    outputs = [pool.probs(name, split) for name in cascade.member_names]
    macs = [pool.member(name).macs for name in cascade.member_names]

    def member_probs(stage: int, rows: Rows) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        return outputs[stage][rows]

    return run_cascade(cascade, member_probs, pool.split(split).n, macs)


def evaluate(cascade: Cascade, pool: Pool, split: str) -> Evaluated:
    """Accuracy, mean cost and exits of a cascade on a split."""
    answers = recorded_answers(cascade, pool, split)
    labels = pool.labels(split)
    return Evaluated(
        n=len(labels),
        accuracy=float(np.mean(answers.label == labels)),
        macs=float(np.mean(answers.macs)),
        exit_fractions=exit_fractions(answers.exit_stage, len(cascade.stages)),
    )


def evaluate_members(pool: Pool, split: str) -> dict[str, Evaluated]:
    """Every member on its own, by name: the same as a cascade of one stage."""
    return {
        member.name: evaluate(Cascade(stages=(Stage(member=member.name),)), pool, split)
        for member in pool.members_with(split)
    }


def best_within(members: Mapping[str, Evaluated], macs: float) -> str | None:
    """Name the most accurate member of no more cost, the cheapest of equally accurate ones."""
    fitting = [name for name, found in members.items() if found.macs <= macs]
    return min(fitting, key=lambda name: (-members[name].accuracy, members[name].macs), default=None)


def cheapest_reaching(members: Mapping[str, Evaluated], accuracy: float) -> str | None:
    """Name the cheapest member of no less accuracy, the most accurate of equally cheap ones."""
    fitting = [name for name, found in members.items() if found.accuracy >= accuracy]
    return min(fitting, key=lambda name: (members[name].macs, -members[name].accuracy), default=None)
