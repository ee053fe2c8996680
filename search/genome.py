"""A genome: which members run in which order, and how sure the answer must be to stop between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from encas.cascade import Cascade, Combine, Stage

N_THRESHOLDS = 51
THRESHOLDS = np.arange(N_THRESHOLDS) / 50  # value of a threshold gene: 0.00, 0.02 .. 1.00
ANSWERS: tuple[Combine, ...] = ("mean", "last")  # by the value of the gene that says how a cascade answers
NEVER = N_THRESHOLDS - 1  # the threshold 1.00, which no probability exceeds


@dataclass(frozen=True)
class Space:
    """All genomes of cascades (or ensembles) of at most `max_stages` out of `n_members` members.

    A genome is `max_stages` model genes, 0 for none and i + 1 for member i, then `max_stages - 1` threshold
    genes. The threshold in front of the model at position j >= 1 is gene j - 1. An ensemble has no threshold
    genes: all its members run always. Where cascades may answer in either way, one more gene says in which:
    with the mean of all stages so far, or with the latest alone. The paper has the mean only.

    Source: Chebykin et al., GECCO 2022, arXiv:2203.04011.
    """

    n_members: int
    max_stages: int
    ensemble: bool = False
    either_answer: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty space, and ensembles that answer with one member."""
        if self.n_members < 1 or self.max_stages < 1:
            raise ValueError(
                f"at least one member and one stage are needed, got {self.n_members} and {self.max_stages}"
            )
        if self.ensemble and self.either_answer:
            raise ValueError("an ensemble answers with the mean")

    @property
    def n_genes(self) -> int:
        """Length of a genome."""
        return self.max_stages + self.n_guards + self.either_answer

    @property
    def n_guards(self) -> int:
        """Number of threshold genes."""
        return 0 if self.ensemble else self.max_stages - 1

    @property
    def n_values(self) -> NDArray[np.intp]:
        """(g,) sizes of the genes' alphabets."""
        models, guards = [self.n_members + 1] * self.max_stages, [N_THRESHOLDS] * self.n_guards
        return np.array(models + guards + [len(ANSWERS)] * self.either_answer, np.intp)

    def alphabets(self, costs: NDArray[np.float64]) -> list[NDArray[np.intp]]:
        """Order the values of each gene so that neighbours are alike: members by cost, (m,), none first."""
        members = np.concatenate([[0], 1 + np.argsort(costs, kind="stable")])
        others = [np.arange(n) for n in self.n_values[self.max_stages :].tolist()]
        return [members] * self.max_stages + others

    def check(self, genomes: NDArray[Any]) -> NDArray[np.intp]:
        """Return (p, g) genomes as one block of indices.

        Raises:
            ValueError: Wrong length, or a gene outside its alphabet.
        """
        genomes = np.ascontiguousarray(genomes, np.intp)
        if genomes.ndim != 2 or genomes.shape[1] != self.n_genes:
            raise ValueError(f"genomes must have shape (p, {self.n_genes}), got {genomes.shape}")
        if len(genomes) and (genomes.min() < 0 or (genomes.max(axis=0) >= self.n_values).any()):
            raise ValueError(f"a gene is outside its alphabet; the sizes are {self.n_values.tolist()}")
        return genomes

    def canonical(self, genomes: NDArray[Any]) -> NDArray[np.intp]:
        """(p, g) genomes of which two are equal if they are the same cascade.

        Members move to the front, each with the threshold that guards it; what nobody reaches, because it
        lies behind the threshold 0.00, goes; unused genes become 0, and so does the way to answer where one
        member is left. Members of an ensemble are sorted.
        """
        return self.compact(self.check(genomes))

    def compact(self, genomes: NDArray[np.intp]) -> NDArray[np.intp]:
        """Do what `canonical` does, for genomes that are known to be right."""
        if self.ensemble:
            models = np.sort(np.where(genomes == 0, self.n_members + 1, genomes), axis=1)
            return np.where(models > self.n_members, 0, models)
        out = np.zeros(genomes.shape, np.intp)
        _compact(genomes, self.max_stages, out)
        if self.either_answer:
            out[:, -1] = np.where((out[:, 1 : self.max_stages] > 0).any(axis=1), genomes[:, -1], 0)
        return out

    def loosened(self, genomes: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
        """Write canonical genomes of cascades so that they mean the same, with gaps at random places.

        In canonical form no single gene can put a member between two others or, since what guards it would
        be 0.00, behind the last. Here a gap is guarded by the threshold of some stage of the cascade.
        """
        out = np.zeros(genomes.shape, np.intp)
        _loosen(
            genomes,
            self.max_stages,
            rng.random((len(genomes), self.max_stages)),
            rng.random(genomes.shape),
            out,
        )
        out[:, 2 * self.max_stages - 1 :] = genomes[:, 2 * self.max_stages - 1 :]
        return out

    def stages(self, genomes: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Decode (p, g) genomes.

        Returns:
            (p, k) members in the order in which they run, -1 behind the last, and (p, k - 1) threshold genes:
            gene j stands between stages j and j + 1.
        """
        canonical = self.canonical(genomes)
        members, thresholds = canonical[:, : self.max_stages] - 1, canonical[:, self.max_stages :]
        thresholds = thresholds[:, : self.n_guards]
        if self.ensemble:
            thresholds = np.where(members[:, 1:] >= 0, NEVER, 0)
        return members, thresholds

    def cascade(self, genome: NDArray[Any], member_names: Sequence[str]) -> Cascade:
        """Write one genome as a cascade.

        Raises:
            ValueError: The genome has no member.
        """
        members, thresholds = (row[0] for row in self.stages(np.asarray(genome)[None]))
        names = [member_names[member] for member in members if member >= 0]
        if not names:
            raise ValueError("a genome without members is no cascade")
        guards = [float(THRESHOLDS[gene]) for gene in thresholds[: len(names) - 1]]
        stages = [Stage(member=name, threshold=t) for name, t in zip(names, [*guards, None], strict=True)]
        answer = int(self.canonical(np.asarray(genome)[None])[0, -1]) if self.either_answer else 0
        return Cascade(stages=tuple(stages), combine=ANSWERS[answer])

    def genome(self, cascade: Cascade, member_names: Sequence[str]) -> NDArray[np.intp]:
        """(g,) the genome of a cascade that `cascade` wrote."""
        genome = np.zeros(self.n_genes, np.intp)
        for j, stage in enumerate(cascade.stages):
            genome[j] = member_names.index(stage.member) + 1
            if stage.threshold is not None and not self.ensemble:
                genome[self.max_stages + j] = round(stage.threshold * NEVER)
        if self.either_answer and len(cascade.stages) > 1:
            genome[-1] = ANSWERS.index(cascade.combine)
        return genome


@njit(cache=True, nogil=True)
def _compact(genomes: NDArray[np.intp], max_stages: int, out: NDArray[np.intp]) -> None:
    for row in range(genomes.shape[0]):
        n = 0
        for position in range(max_stages):
            if genomes[row, position] == 0:
                continue
            if n > 0:
                guard = genomes[row, max_stages + position - 1]
                if guard == 0:
                    break
                out[row, max_stages + n - 1] = guard
            out[row, n] = genomes[row, position]
            n += 1


@njit(cache=True, nogil=True)
def _loosen(
    genomes: NDArray[np.intp],
    max_stages: int,
    places: NDArray[np.float64],
    guards: NDArray[np.float64],
    out: NDArray[np.intp],
) -> None:
    """Put n members in the places of the n largest of max_stages numbers; other numbers choose guards."""
    for row in range(genomes.shape[0]):
        n = 0
        while n < max_stages and genomes[row, n] > 0:
            n += 1
        for gap in range(max_stages - 1):
            drawn = guards[row, gap]
            if n > 1:
                out[row, max_stages + gap] = genomes[row, max_stages + int(drawn * (n - 1))]
            else:
                out[row, max_stages + gap] = 1 + int(drawn * NEVER)
        order = np.argsort(places[row])
        taken = np.sort(order[max_stages - n :])
        for i in range(n):
            out[row, taken[i]] = genomes[row, i]
            if i > 0:
                out[row, max_stages + taken[i] - 1] = genomes[row, max_stages + i - 1]
