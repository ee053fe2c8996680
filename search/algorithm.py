"""What every search algorithm looks like from outside: it asks for evaluations and is told the results."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Genomes = NDArray[np.intp]  # (p, g): gene j of each is in [0, n_values[j])
Objectives = NDArray[np.float64]  # (p, o), all minimised


class Algorithm(Protocol):
    """Takes turns of `ask` and `tell`, and draws from its own generator only, so that it repeats itself."""

    def ask(self) -> Genomes:
        """Genomes to evaluate next, perhaps ones that were asked for before; none when it has finished."""
        ...

    def tell(self, objectives: Objectives) -> None:
        """Take the objectives of what was asked last, in the same order."""
        ...


def random_genomes(p: int, n_values: NDArray[np.intp], rng: np.random.Generator) -> Genomes:
    """(p, g) genomes, every gene uniform and independent."""
    return rng.integers(n_values, size=(p, len(n_values)))
