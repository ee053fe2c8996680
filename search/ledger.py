"""What a search has evaluated: every genotype is counted once, every phenotype evaluated once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives
from encas.search.index import Index

Number = TypeVar("Number", bound=np.generic)


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
        n_genes, n_objectives = earlier.genomes.shape[1], earlier.objectives.shape[1]
        self._recalled = Index(n_genes)  # the earlier phenotypes
        self._recalled.number(earlier.genomes)
        self._genotypes, self._phenotypes = Index(n_genes), Index(n_genes)
        self._phenotype_of = np.empty(0, np.intp)  # the number of each genotype's phenotype
        self._objectives = np.empty((0, n_objectives))
        self._n_genotypes = self._n_evaluated = 0  # those that are answered: an index may be ahead

    @property
    def n_genotypes(self) -> int:
        """How many different genotypes were answered: this is what the budget limits."""
        return self._n_genotypes

    @property
    def is_spent(self) -> bool:
        """Whether no further genotype will be answered."""
        return self.n_genotypes >= self._budget

    @property
    def evaluations(self) -> Evaluations:
        """Phenotypes in the order in which they were first asked for."""
        genomes = self._phenotypes.since(0)[: self._n_evaluated]
        return Evaluations(genomes, self.evaluated_since(0))

    @property
    def everything(self) -> Evaluations:
        """Those evaluations and the earlier ones that were not asked for again yet."""
        now = self.evaluations
        numbers = self._phenotypes.find(self._earlier.genomes)
        missing = (numbers < 0) | (numbers >= self._n_evaluated)
        return Evaluations(
            np.concatenate([now.genomes, self._earlier.genomes[missing]]),
            np.concatenate([now.objectives, self._earlier.objectives[missing]]),
        )

    def evaluated_since(self, n: int) -> Objectives:
        """Objectives of the evaluations behind the first n."""
        return self._objectives[n : self._n_evaluated]

    def objectives(self, genomes: Genomes) -> Objectives:
        """(p, o), or fewer rows than were asked for when the budget ends among them."""
        numbers = self._genotypes.number(genomes, self._budget)
        new = self._genotypes.since(self._n_genotypes)
        if len(new):
            self._phenotype_of = _grown(self._phenotype_of, len(self._genotypes))
            self._phenotype_of[self._n_genotypes : len(self._genotypes)] = self._phenotypes_of(new)
            self._n_genotypes = len(self._genotypes)
        return self._objectives[self._phenotype_of[numbers]]

    def _phenotypes_of(self, genotypes: Genomes) -> NDArray[np.intp]:
        """Numbers of the phenotypes; the new ones among them are evaluated, in one call."""
        numbers = self._phenotypes.number(self._canonical(genotypes))
        new = self._phenotypes.since(self._n_evaluated)
        if len(new):
            self._objectives = _grown(self._objectives, len(self._phenotypes))
            self._objectives[self._n_evaluated : len(self._phenotypes)] = self._objectives_of(new)
            self._n_evaluated = len(self._phenotypes)  # last, so that an interruption leaves whole rows only
        return numbers

    def _objectives_of(self, phenotypes: Genomes) -> Objectives:
        """Evaluate what the earlier run did not."""
        if not len(self._recalled):
            return self._evaluate(phenotypes)
        earlier = self._recalled.find(phenotypes)
        objectives: Objectives = self._earlier.objectives[earlier]
        if (earlier < 0).any():
            objectives[earlier < 0] = self._evaluate(phenotypes[earlier < 0])
        return objectives


def _grown(array: NDArray[Number], length: int) -> NDArray[Number]:
    """Return the array with room for `length` rows."""
    if length <= len(array):
        return array
    grown = np.empty((2 * length, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
