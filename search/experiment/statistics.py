"""How sure it is that one way is better than another, from paired runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from encas.files import FileModel

Numbers = NDArray[np.float64]


class Tested(FileModel):
    """A one-sided Wilcoxon signed-rank test; `p_holm` is corrected for all tests of the experiment."""

    better: str
    than: str
    split: str
    by: str  # what was compared
    n: int  # pairs
    median_better: float
    median_than: float
    wins: int  # pairs in which it is better
    effect: float  # matched-pairs rank-biserial correlation, in [-1, 1]
    p: float
    p_holm: float = 1.0


@dataclass(frozen=True)
class Paired:
    """Two ways on the same seeds."""

    better: Numbers  # (n,) the more, the better
    than: Numbers  # (n,)

    def p(self) -> float:
        """Probability of such signed ranks, or ones that speak more for the first, if neither is better."""
        difference = self.better - self.than
        if not difference.any():
            return 1.0
        return float(wilcoxon(difference, alternative="greater", method="auto").pvalue)

    def effect(self) -> float:
        """Share of the ranks that speak for it less those that speak against it; 0 where all are equal.

        Source: Kerby, The simple difference formula, Comprehensive Psychology 3, 2014.
        """
        difference = self.better - self.than
        difference = difference[difference != 0]
        if not len(difference):
            return 0.0
        ranks = rankdata(np.abs(difference))
        return float((np.sign(difference) * ranks).sum() / ranks.sum())


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values so that the chance of any false claim stays below the level.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(one) for one in corrected]
