"""What a search has evaluated: every genotype is counted once, every phenotype evaluated once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives


@dataclass(frozen=True)
class Evaluations:
    """Phenotypes (e, g) and their objectives (e, o)."""

    genomes: Genomes
    objectives: Objectives

    @classmethod
    def none(cls, n_genes: int, n_objectives: int = 2) -> "Evaluations":
        """Return none yet."""
        return cls(np.empty((0, n_genes), np.intp), np.empty((0, n_objectives)))


class Ledger:
    """Answers with objectives and evaluates only what is not known yet.

    Args:
        canonical: (p, g) genotypes -> (p, g) phenotypes, equal where the genotypes mean the same.
        evaluate: (p, g) phenotypes -> (p, o) objectives.
        budget: How many different genotypes are answered at most.
        earlier: What an interrupted run evaluated. It spares evaluations and changes nothing else: counts
            and order become those of a run without it.
    """

    def __init__(
        self,
        canonical: Callable[[Genomes], Genomes],
        evaluate: Callable[[Genomes], Objectives],
        budget: int,
        earlier: Evaluations,
    ) -> None:
        self._canonical = canonical
        self._evaluate = evaluate
        self._budget = budget
        self._earlier = earlier
        self._earlier_rows = {key: row for row, key in enumerate(_keys(earlier.genomes))}
        self._genotypes: dict[bytes, int] = {}  # -> row of the phenotype
        self._phenotypes: dict[bytes, int] = {}
        self._genomes = np.empty((1024, earlier.genomes.shape[1]), np.intp)
        self._objectives = np.empty((1024, earlier.objectives.shape[1]))
        self._size = 0

    @property
    def n_genotypes(self) -> int:
        """How many different genotypes were answered: this is what the budget limits."""
        return len(self._genotypes)

    @property
    def is_spent(self) -> bool:
        """Whether no further genotype will be answered."""
        return self.n_genotypes >= self._budget

    @property
    def evaluations(self) -> Evaluations:
        """Phenotypes in the order in which they were first asked for."""
        return Evaluations(self._genomes[: self._size], self._objectives[: self._size])

    @property
    def everything(self) -> Evaluations:
        """Those evaluations and the earlier ones that were not asked for again yet."""
        rows = [row for key, row in self._earlier_rows.items() if key not in self._phenotypes]
        now = self.evaluations
        return Evaluations(
            np.concatenate([now.genomes, self._earlier.genomes[rows]]),
            np.concatenate([now.objectives, self._earlier.objectives[rows]]),
        )

    def objectives(self, genomes: Genomes) -> Objectives:
        """(p, o), or fewer rows than were asked for when the budget ends among them."""
        keys = _keys(genomes)
        new = _first_places(keys, self._genotypes)
        left = self._budget - self.n_genotypes
        if len(new) > left:
            keys = keys[: list(new.values())[left]]
            new = dict(list(new.items())[:left])
        if new:
            rows = self._rows_of(self._canonical(genomes[list(new.values())]))
            self._genotypes.update(zip(new, rows, strict=True))
        return self._objectives[[self._genotypes[key] for key in keys]]

    def _rows_of(self, phenotypes: Genomes) -> list[int]:
        """Rows of phenotypes in the table; the new ones among them are evaluated, in one call."""
        keys = _keys(phenotypes)
        new = _first_places(keys, self._phenotypes)
        if new:
            self._append(list(new), phenotypes[list(new.values())])
        return [self._phenotypes[key] for key in keys]

    def _append(self, keys: list[bytes], genomes: Genomes) -> None:
        objectives = self._recalled(keys, genomes) if self._earlier_rows else self._evaluate(genomes)
        stop = self._size + len(keys)
        if stop > len(self._genomes):
            self._genomes = np.resize(self._genomes, (2 * stop, self._genomes.shape[1]))
            self._objectives = np.resize(self._objectives, (2 * stop, self._objectives.shape[1]))
        self._genomes[self._size : stop] = genomes
        self._objectives[self._size : stop] = objectives
        self._phenotypes.update(zip(keys, range(self._size, stop), strict=True))
        self._size = stop  # last, so that an interruption before it leaves whole rows only

    def _recalled(self, keys: list[bytes], genomes: Genomes) -> Objectives:
        """Evaluate what the earlier run did not."""
        earlier = np.array([self._earlier_rows.get(key, -1) for key in keys])
        objectives: Objectives = self._earlier.objectives[earlier]
        if (earlier < 0).any():
            objectives[earlier < 0] = self._evaluate(genomes[earlier < 0])
        return objectives


def _first_places(keys: list[bytes], known: dict[bytes, int]) -> dict[bytes, int]:
    """Where each key that is not known stands first."""
    new: dict[bytes, int] = {}
    for i, key in enumerate(keys):
        if key not in known and key not in new:
            new[key] = i
    return new


def _keys(genomes: Genomes) -> list[bytes]:
    """One hashable key per genome."""
    packed = np.ascontiguousarray(genomes, np.uint16)
    keys: NDArray[np.bytes_] = packed.view(f"S{2 * packed.shape[1]}").ravel()
    listed: list[bytes] = keys.tolist()
    return listed
