"""Random search: the baseline that every method must beat."""

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives, random_genomes

BATCH = 1024


class RandomSearch:
    """Genes uniform and independent; it never ends by itself, see `encas.search.algorithm.Algorithm`."""

    def __init__(self, n_values: NDArray[np.intp], rng: np.random.Generator) -> None:
        self._n_values = np.asarray(n_values, np.intp)
        self._rng = rng
        self._asked = random_genomes(BATCH, self._n_values, rng)

    def ask(self) -> Genomes:
        """(p, g) genomes."""
        return self._asked

    def tell(self, objectives: Objectives) -> None:
        """Go on; nothing is learned."""
        del objectives
        self._asked = random_genomes(BATCH, self._n_values, self._rng)
