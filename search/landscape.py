"""What genomes mean to a search: cascades of one kind, with their error and cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade, Combine
from encas.search.algorithm import Genomes, Objectives
from encas.search.evaluate import Counts, Evaluator
from encas.search.found import Found
from encas.search.genome import NEVER, Space
from encas.search.last import LastEvaluator
from encas.search.ledger import Evaluations
from encas.search.pareto import non_dominated

Result = TypeVar("Result")


@dataclass(frozen=True)
class Landscape:
    """All cascades of one kind; the algorithms themselves know nothing of cascades.

    Attributes:
        space: Of the genomes.
        names: (m,) of the members.
        evaluate: (p, g) genomes in canonical form -> (p, 2) error in [0, 1] and mean cost per sample.
        count: (p, g) genomes in canonical form -> what happened to the samples.
        combine: How the cascades answer; None: as their genome says.
    """

    space: Space
    names: Sequence[str]
    evaluate: Callable[[Genomes], Objectives]
    count: Callable[[Genomes], Counts]
    combine: Combine | None = "mean"

    @classmethod
    def averaged(cls, evaluator: Evaluator, names: Sequence[str]) -> "Landscape":
        """Cascades that answer with the mean of all stages so far."""
        return cls(evaluator.space, names, evaluator.of_canonical, evaluator.counts)

    @classmethod
    def replaced(cls, evaluator: Evaluator, names: Sequence[str]) -> "Landscape":
        """Cascades that answer with the latest stage alone."""
        last = LastEvaluator(evaluator)
        return cls(evaluator.space, names, last.of_canonical, last.counts, "last")

    @classmethod
    def either(cls, evaluator: Evaluator, names: Sequence[str]) -> "Landscape":
        """Cascades that answer in either way, which is a gene; of one stage there is only one way."""
        if evaluator.space.max_stages == 1:
            return cls.averaged(evaluator, names)
        last = LastEvaluator(evaluator)

        def evaluate(genomes: Genomes) -> Objectives:
            objectives = np.empty((len(genomes), 2))
            for rows, cascades, among in _by_answer(genomes, evaluator.of_canonical, last.of_canonical):
                objectives[rows] = among(cascades)
            return objectives

        def count(genomes: Genomes) -> Counts:
            counts = Counts.none(len(genomes), evaluator.space.max_stages)
            for rows, cascades, among in _by_answer(genomes, evaluator.counts, last.counts):
                some = among(cascades)
                counts.right[rows], counts.reached[rows] = some.right, some.reached
            return counts

        return cls(replace(evaluator.space, either_answer=True), names, evaluate, count, None)

    @classmethod
    def ensembles(cls, evaluator: Evaluator, names: Sequence[str]) -> "Landscape":
        """Ensembles: cascades whose stages run for every sample."""

        def guarded(genomes: Genomes) -> Genomes:
            """Put the threshold that nothing exceeds before every further member."""
            return np.hstack([genomes, np.where(genomes[:, 1:] > 0, NEVER, 0)])

        return cls(
            replace(evaluator.space, ensemble=True),
            names,
            lambda genomes: evaluator.of_canonical(guarded(genomes)),
            lambda genomes: evaluator.counts(guarded(genomes)),
        )

    def genomes(self, cascades: Sequence[Cascade]) -> Genomes:
        """(p, g) of cascades that were found here."""
        genomes = [self.space.genome(cascade, self.names) for cascade in cascades]
        return np.array(genomes, np.intp).reshape(-1, self.space.n_genes)

    def singles(self) -> Genomes:
        """(m, g) every member on its own."""
        genomes = np.zeros((self.space.n_members, self.space.n_genes), np.intp)
        genomes[:, 0] = np.arange(1, self.space.n_members + 1)
        return genomes

    def front(self, evaluations: Evaluations) -> list[Found]:
        """Decode what nothing evaluated dominates, by rising cost."""
        real = np.flatnonzero(evaluations.genomes.any(axis=1))
        rows = real[non_dominated(evaluations.objectives[real])]
        genomes, objectives = evaluations.genomes[rows], evaluations.objectives[rows].tolist()
        counts = self.count(genomes)
        return [
            Found(self._cascade(genome), right, tuple(reached), error, cost)
            for genome, right, reached, (error, cost) in zip(
                genomes, counts.right.tolist(), counts.reached.tolist(), objectives, strict=True
            )
        ]

    def _cascade(self, genome: Genomes) -> Cascade:
        cascade = self.space.cascade(genome, self.names)
        return cascade if self.combine is None else cascade.model_copy(update={"combine": self.combine})


def _by_answer(
    genomes: Genomes, averaged: Callable[[Genomes], Result], replaced: Callable[[Genomes], Result]
) -> Iterator[tuple[NDArray[np.intp], Genomes, Callable[[Genomes], Result]]]:
    """Part genomes by their last gene: rows, their genomes without it, and who evaluates those."""
    for answer, among in enumerate((averaged, replaced)):
        rows = np.flatnonzero(genomes[:, -1] == answer)
        if len(rows):
            yield rows, np.ascontiguousarray(genomes[rows, :-1]), among
