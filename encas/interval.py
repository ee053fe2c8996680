"""How far an accuracy may be off that was counted on finitely many samples."""

import numpy as np
from pydantic import Field

from encas.files import FileModel

_DRAWS = 20_000


class Interval(FileModel):
    """Where the accuracy on `n` new samples of the same kind lies, with a probability of `confidence`."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    confidence: float = Field(gt=0, lt=1)
    n: int = Field(ge=1)


def predict(accuracy: float, n: float, new_n: int, confidence: float = 0.95) -> Interval:
    """Say what accuracy to expect on other samples.

    Two things are left to chance: which samples were counted, and which will come. For the first the
    Bayesian bootstrap of right and wrong answers is drawn from, which is a beta distribution; half an answer
    of each kind is added, so that a hundred right answers of a hundred do not mean that nothing can go
    wrong. For the second, right answers are drawn from each of these. The same arguments give the same
    interval.

    Args:
        accuracy: In [0, 1], counted on samples that nothing was chosen by.
        n: How many these were, or are worth (`encas.held_out.HeldOut.worth`).
        new_n: How many new samples.
        confidence: In (0, 1).

    Source: Rubin, The Bayesian bootstrap, Annals of Statistics 9, 1981.
    """
    rng = np.random.default_rng(0)
    shares = rng.beta(accuracy * n + 0.5, (1 - accuracy) * n + 0.5, _DRAWS)
    counts = rng.binomial(new_n, shares)
    tail = (1 - confidence) / 2
    low, high = np.quantile(counts, [tail, 1 - tail], method="inverted_cdf") / new_n
    return Interval(low=float(low), high=float(high), confidence=confidence, n=new_n)
