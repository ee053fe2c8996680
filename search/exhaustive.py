"""Every genome there is: the best search where the space is small enough."""

import math

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives

BATCH = 4096


class Exhaustive:
    """All genomes in counting order, then none; see `encas.search.algorithm.Algorithm`."""

    def __init__(self, n_values: NDArray[np.intp]) -> None:
        self._shape = tuple(int(n) for n in n_values)
        self._next = 0

    def ask(self) -> Genomes:
        """(p, g) genomes; none when all were told."""
        stop = min(self._next + BATCH, math.prod(self._shape))
        return np.column_stack(np.unravel_index(np.arange(self._next, stop), self._shape))

    def tell(self, objectives: Objectives) -> None:
        """Go on; nothing is learned."""
        self._next += len(objectives)
