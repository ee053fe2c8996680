"""Error and cost of cascades whose latest stage answers alone."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives
from encas.search.evaluate import Counts, Evaluator
from encas.search.genome import THRESHOLDS

_THRESHOLDS = THRESHOLDS.astype(np.float32)


class LastEvaluator:
    """Evaluates the genomes of an evaluator's space as cascades that `combine` by "last".

    Equal to `encas.cascade.run_cascade` to the sample.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._alone = evaluator.table(np.arange(evaluator.space.n_members), "last")

    def of_canonical(self, genomes: Genomes) -> Objectives:
        """(p, 2) as `Evaluator.of_canonical` tells them."""
        return self._evaluator.priced(genomes, self._counts(genomes))

    def counts(self, genomes: NDArray[Any]) -> Counts:
        """Count right answers and runs of every stage; nothing for a genome without members."""
        return self._counts(self._evaluator.space.canonical(genomes))

    def _counts(self, genomes: Genomes) -> Counts:
        counts = Counts.none(len(genomes), self._evaluator.space.max_stages)
        _run(genomes, self._alone.confidence, self._alone.is_right, counts.right, counts.reached)
        return counts


@njit(cache=True, nogil=True)
def _run(
    genomes: Genomes,
    confidence: NDArray[np.float32],
    is_right: NDArray[np.bool_],
    right: NDArray[np.int64],
    reached: NDArray[np.int64],
) -> None:
    """Add to right (p,) and reached (p, k) what p cascades do on n samples of m members."""
    max_stages = reached.shape[1]
    for row in range(len(genomes)):
        if genomes[row, 0] == 0:
            continue
        k = 1
        while k < max_stages and genomes[row, k] > 0:
            k += 1
        for sample in range(confidence.shape[1]):
            for j in range(k):
                member = genomes[row, j] - 1
                reached[row, j] += 1
                guard = genomes[row, max_stages + j] if j < k - 1 else 0
                if j == k - 1 or confidence[member, sample] > _THRESHOLDS[guard]:
                    right[row] += is_right[member, sample]
                    break
