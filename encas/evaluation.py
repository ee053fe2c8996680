"""What a cascade would have answered, from the recorded outputs of its members."""

import numpy as np

from encas.cascade import Answers, Cascade, Evaluated, Rows, exit_fractions, run_cascade
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
