"""MO-GOMEA: gene-pool optimal mixing along learned linkage, in clusters of the objective space.

Source: Luong, La Poutre and Bosman, "Multi-objective Gene-pool Optimal Mixing Evolutionary Algorithm with
the Interleaved Multi-start Scheme", Swarm and Evolutionary Computation 40, 2018.

One thing is arranged differently, so that evaluations come in batches: all solutions of a population take
their mixing steps together, step i of every solution before step i + 1 of any. Donors come from the
population as it was when the generation began, so this changes only the order in which the shared archive
hears of new points.

For genes whose values have an order three things are added (docs/search.md tells what they bring): half of
the donors are members of the archive that are near in the objective space, half of the steps that copy a
single gene move it to a value close by instead, and half of all evaluations are of children of the archive
(`encas.search.children`).
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives, random_genomes
from encas.search.archive import Archive, Verdict
from encas.search.children import children
from encas.search.clusters import Clusters, cluster
from encas.search.linkage import linkage_tree, mutual_information
from encas.search.near import FAR, Alphabets, nearest

FIRST_SIZE = 8
FIRST_CLUSTERS = 3
GENERATIONS_PER_LARGER_ONE = 2
FROM_ARCHIVE = 0.5  # of the donors
NEAR = 20  # so many members of the archive may be a solution's donors
MOVED = 0.5  # of the steps of single genes
OF_CHILDREN = 0.5  # of all evaluations
_AT_ONCE = 64  # children, at most

# Yields genomes to evaluate, and is sent their objectives.
Steps = Generator[Genomes, Objectives, None]


@dataclass
class Population:
    """n solutions, and for how long they have added nothing to the front."""

    genomes: Genomes
    objectives: Objectives
    n_clusters: int
    generations: int = 1  # initialisation counts as one
    stretch: int = 0  # generations in a row in which the archive's front did not move

    @property
    def has_stalled(self) -> bool:
        """Whether the no-improvement stretch is long enough to force improvements."""
        return self.stretch > 1 + int(np.log10(len(self.genomes)))


class MoGomea:
    """Minimises any objectives over genomes of whole numbers; see `encas.search.algorithm.Algorithm`.

    It has no size parameter: ever larger populations run interleaved and share one archive. It does not end
    by itself; whoever asks decides when it is enough.

    Args:
        n_values: (g,) gene j is in [0, n_values[j]).
        n_objectives: At least 1.
        rng: The only source of chance.
        seeds: (s, g) genomes to evaluate first; the first population then starts from the best of them.
        canonical: (p, g) genomes -> (p, g) genomes, equal where they mean the same. Where it is given, every
            genome is brought into this form before it is asked for, so that none is asked for in two forms.
            This is an addition to the paper.
        loosened: Writes (p, g) canonical genomes in another form of the same meaning, by chance. Before every
            step solutions are brought into such a form, from which other genomes are one gene away.
        alphabets: For each gene its values in an order in which neighbours are alike. Where they are given,
            solutions also mix with the archive near them, single genes move to values close by, and the
            archive has children. These are additions to the paper; for genes without an order (and deceptive
            problems) they are in the way.
        tolerance: Smaller differences of an objective do not count.
        archive_size: About how many points the archive holds at most.
    """

    def __init__(
        self,
        n_values: NDArray[np.intp],
        n_objectives: int,
        rng: np.random.Generator,
        *,
        seeds: Genomes | None = None,
        canonical: Callable[[Genomes], Genomes] | None = None,
        loosened: Callable[[Genomes, np.random.Generator], Genomes] | None = None,
        alphabets: Sequence[NDArray[np.intp]] | None = None,
        tolerance: float = 1e-5,
        archive_size: int = 10_000,
    ) -> None:
        self._n_values = np.asarray(n_values, np.intp)
        if self._n_values.ndim != 1 or len(self._n_values) == 0 or self._n_values.min() < 1:
            raise ValueError(f"n_values must be a row of numbers of at least 1, got {n_values}")
        if n_objectives < 1:
            raise ValueError(f"n_objectives must be at least 1, got {n_objectives}")
        self._rng = rng
        self._seeds = np.empty((0, len(self._n_values)), np.intp) if seeds is None else seeds
        self._canonical = canonical
        self._loosened = loosened
        self._alphabets = None if alphabets is None else Alphabets.of(self._n_values, alphabets)
        self._tolerance = tolerance
        self.archive = Archive(
            len(self._n_values), n_objectives, tolerance=tolerance, target_size=archive_size
        )
        self.populations: list[Population] = []
        self._steps = self._run()
        self._asked = next(self._steps)

    def ask(self) -> Genomes:
        """(p, g) genomes, never none."""
        return self._asked

    def tell(self, objectives: Objectives) -> None:
        """Take the (p, o) objectives of what was asked."""
        if objectives.shape != (len(self._asked), self.archive.objectives.shape[1]):
            raise ValueError(
                f"objectives must have shape ({len(self._asked)}, {self.archive.objectives.shape[1]}), "
                f"got {objectives.shape}"
            )
        if not np.isfinite(objectives).all():
            raise ValueError("objectives must be finite")
        self._asked = self._steps.send(objectives)

    # --- the interleaved multi-start scheme ---

    def _run(self) -> Steps:
        if len(self._seeds):
            objectives = yield self._seeds
            self.archive.offer(self._seeds, objectives)
        while True:
            p = 0
            yield from self._turn(p)
            while self.populations[p].generations % GENERATIONS_PER_LARGER_ONE == 0:
                p += 1
                yield from self._turn(p)

    def _turn(self, p: int) -> Steps:
        """Let population p live one generation, then evaluate children of the archive."""
        n, steps = 0, self._advance(p)
        try:
            asked = next(steps)
            while True:
                n += len(asked)
                objectives = yield asked
                asked = steps.send(objectives)
        except StopIteration:
            pass
        if self._alphabets is not None:
            yield from self._children(self._alphabets, round(n * OF_CHILDREN / (1 - OF_CHILDREN)))

    def _advance(self, p: int) -> Steps:
        """Let population p live one generation; its first is to come into being."""
        if p == len(self.populations):
            population = yield from self._start(p)
            self.populations.append(population)
        else:
            yield from self._generation(self.populations[p])

    def _children(self, alphabets: Alphabets, n: int) -> Steps:
        """Offer up to n children to the archive; populations hear of them through it only."""
        while n > 0:
            some = min(n, _AT_ONCE)
            genomes = children(self.archive, alphabets, some, self._rng, self._canonical, self._loosened)
            n -= some
            if len(genomes):
                objectives = yield genomes
                self.archive.offer(genomes, objectives)

    def _start(self, p: int) -> Generator[Genomes, Objectives, Population]:
        genomes = random_genomes(FIRST_SIZE * 2**p, self._n_values, self._rng)
        if self._canonical is not None:
            genomes = self._canonical(genomes)
        if p == 0 and len(self._seeds):
            best = self._rng.permutation(self.archive.genomes)[: len(genomes)]
            genomes[: len(best)] = best
        objectives = yield genomes
        self.archive.offer(genomes, objectives)
        return Population(genomes, objectives, FIRST_CLUSTERS + p)

    # --- one generation ---

    def _generation(self, population: Population) -> Steps:
        clusters = cluster(population.objectives, population.n_clusters, self._rng)
        trees = self._linkage(population.genomes, clusters)
        offspring = _Offspring(
            population.genomes.copy(),
            population.objectives.copy(),
            clusters.extreme[clusters.of],
            trees[clusters.of],
        )
        yield from self._mix(population, offspring, clusters)
        yield from self._force_improvement(offspring, ~offspring.improved | population.has_stalled)
        population.genomes, population.objectives = offspring.genomes, offspring.objectives
        population.generations += 1
        population.stretch = 0 if offspring.moved_front else population.stretch + 1

    def _linkage(self, genomes: Genomes, clusters: Clusters) -> NDArray[np.bool_]:
        """(k, f, g) the linkage sets of each cluster, without the root, which would copy a whole donor."""
        information = mutual_information(genomes[clusters.members])
        trees = np.stack([linkage_tree(matrix, self._rng) for matrix in information])
        return trees[:, :-1] if genomes.shape[1] > 1 else trees

    def _mix(self, population: Population, offspring: "_Offspring", clusters: Clusters) -> Steps:
        """Gene-pool optimal mixing: take over the genes of each linkage set from a donor."""
        everyone = np.arange(len(offspring))
        order = self._orders(offspring)
        drawn = self._rng.integers(clusters.members.shape[1], size=order.shape)
        donors = clusters.members[clusters.of, drawn]  # (f, n) of the source
        source = population.genomes
        near = None if self._alphabets is None else _Near.of(self._alphabets, population, self.archive)
        if near is not None:
            source, donors = near.source, near.donors(donors, self._rng)
        for step in range(len(order)):
            chosen, before = donors[step], self._before(offspring.genomes)
            if near is not None:
                sets = offspring.sets[everyone, order[step]]
                chosen = near.moved(before, sets, chosen, self._rng)
            rows, genomes = self._mixed(offspring, before, everyone, order[step], source, chosen)
            if not len(rows):
                continue
            objectives = yield genomes
            verdict = self._offer(offspring, genomes, objectives)
            accepted = mixing_accepts(
                offspring.objectives[rows],
                objectives,
                offspring.extreme[rows],
                verdict.not_dominated,
                self._tolerance,
            )
            offspring.replace(rows[accepted], genomes[accepted], objectives[accepted])

    def _force_improvement(self, offspring: "_Offspring", waiting: NDArray[np.bool_]) -> Steps:
        """Mix with the archive until something is strictly better; else become a member of the archive."""
        order = self._orders(offspring)
        for step in range(len(order)):
            everyone = np.flatnonzero(waiting)
            donors = self._archive_members(offspring.extreme[everyone])
            before = self._before(offspring.genomes)
            rows, genomes = self._mixed(
                offspring, before, everyone, order[step, everyone], self.archive.genomes, donors
            )
            if not len(rows):
                continue
            objectives = yield genomes
            verdict = self._offer(offspring, genomes, objectives)
            accepted = forcing_accepts(
                offspring.objectives[rows],
                objectives,
                offspring.extreme[rows],
                verdict.new,
                self._tolerance,
            )
            offspring.replace(rows[accepted], genomes[accepted], objectives[accepted])
            waiting[rows[accepted]] = False
        rows = np.flatnonzero(waiting)
        members = self._archive_members(offspring.extreme[rows])
        offspring.replace(rows, self.archive.genomes[members], self.archive.objectives[members])

    # --- their parts ---

    def _before(self, genomes: Genomes) -> Genomes:
        """Return genomes in the form that a step changes."""
        return genomes if self._loosened is None else self._loosened(genomes, self._rng)

    def _mixed(
        self,
        offspring: "_Offspring",
        before: Genomes,
        rows: NDArray[np.intp],
        chosen: NDArray[np.intp],
        source: Genomes,
        donors: NDArray[np.intp],
    ) -> tuple[NDArray[np.intp], Genomes]:
        """Give each row the genes of its chosen set from its donor; return the rows that changes, and how."""
        changed, genomes = _copied(before, rows, offspring.sets, chosen, source, donors)
        if self._canonical is not None and len(changed):
            genomes = self._canonical(genomes)
            differs = (genomes != offspring.genomes[changed]).any(axis=1)
            changed, genomes = changed[differs], genomes[differs]
        return changed, genomes

    def _orders(self, offspring: "_Offspring") -> NDArray[np.intp]:
        """(f, n) a random order of the linkage sets for each solution."""
        n, n_sets, _ = offspring.sets.shape
        return self._rng.permuted(np.tile(np.arange(n_sets)[:, None], n), axis=0)

    def _archive_members(self, extreme: NDArray[np.intp]) -> NDArray[np.intp]:
        """(q,) a random member each, or the best one in the objective of an extreme cluster."""
        drawn = self._rng.integers(len(self.archive), size=len(extreme))
        for objective in range(self.archive.objectives.shape[1]):
            drawn[extreme == objective] = self.archive.best(objective)
        return drawn

    def _offer(self, offspring: "_Offspring", genomes: Genomes, objectives: Objectives) -> Verdict:
        verdict = self.archive.offer(genomes, objectives)
        offspring.moved_front |= bool(verdict.new.any())
        return verdict


@dataclass
class _Offspring:
    """What a population's solutions are becoming during a generation."""

    genomes: Genomes
    objectives: Objectives
    extreme: NDArray[np.intp]  # (n,) the objective of the solution's extreme cluster, or -1
    sets: NDArray[np.bool_]  # (n, f, g) the linkage sets of the solution's cluster
    moved_front: bool = False

    def __post_init__(self) -> None:
        self.improved = np.zeros(len(self.genomes), np.bool_)

    def __len__(self) -> int:
        return len(self.genomes)

    def replace(self, rows: NDArray[np.intp], genomes: Genomes, objectives: Objectives) -> None:
        self.genomes[rows] = genomes
        self.objectives[rows] = objectives
        self.improved[rows] = True


@dataclass(frozen=True)
class _Near:
    """What n solutions may mix with besides their cluster: the archive near them, and themselves.

    Attributes:
        alphabets: Of the genes.
        source: (n + a + n, g) the population, the archive, and each solution with one gene moved.
        archive: (n, q) places of each solution's nearest members of the archive in the source.
    """

    alphabets: Alphabets
    source: Genomes
    archive: NDArray[np.intp]

    @classmethod
    def of(cls, alphabets: Alphabets, population: Population, archive: Archive) -> "_Near":
        source = np.concatenate([population.genomes, archive.genomes, population.genomes])
        places = nearest(population.objectives, archive.objectives, NEAR)
        return cls(alphabets, source, len(population.genomes) + places)

    def donors(self, of_cluster: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
        """(f, n) donors, some of them replaced by members of the archive."""
        drawn = rng.integers(self.archive.shape[1], size=of_cluster.shape)
        of_archive = self.archive[np.arange(len(self.archive)), drawn]
        return np.where(rng.random(of_cluster.shape) < FROM_ARCHIVE, of_archive, of_cluster)

    def moved(
        self,
        genomes: Genomes,
        sets: NDArray[np.bool_],
        donors: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> NDArray[np.intp]:
        """(n,) donors, those of some single genes replaced by the solution itself with that gene moved."""
        n = len(genomes)
        self.source[-n:] = self.alphabets.moved(genomes, sets.argmax(axis=1), rng.normal(0, FAR, n))
        moves = (rng.random(n) < MOVED) & (sets.sum(axis=1) == 1)
        return np.where(moves, len(self.source) - n + np.arange(n), donors)


@nb.njit(cache=True)
def _copied(genomes, rows, sets, chosen, source, donors):  # type: ignore[no-untyped-def]
    """Copy the genes of set chosen[i] of row rows[i] from a donor; return the rows that changes, and how.

    Args:
        genomes: (n, g).
        rows: (q,) of the genomes.
        sets: (n, f, g) masks.
        chosen: (q,) of the f sets.
        source: (d, g) genomes of possible donors.
        donors: (q,) of the source.
    """
    changed = np.empty(len(rows), np.intp)
    mixed = np.empty((len(rows), genomes.shape[1]), np.intp)
    n = 0
    for i in range(len(rows)):
        is_other = False
        for j in range(genomes.shape[1]):
            here, there = genomes[rows[i], j], source[donors[i], j]
            takes = sets[rows[i], chosen[i], j]
            mixed[n, j] = there if takes else here
            is_other |= takes and here != there
        if is_other:
            changed[n] = rows[i]
            n += 1
    return changed[:n], mixed[:n]


@nb.njit(cache=True)
def mixing_accepts(
    before: Objectives,
    now: Objectives,
    extreme: NDArray[np.intp],
    not_dominated: NDArray[np.bool_],
    tolerance: float,
) -> NDArray[np.bool_]:
    """Say which of q mixing steps stay.

    A step stays if it is nowhere worse than before, or if the archive does not dominate it; in a cluster that
    is extreme for an objective, if it is not worse in that objective.
    """
    stays = np.empty(len(now), np.bool_)
    for i in range(len(now)):
        if extreme[i] >= 0:
            stays[i] = now[i, extreme[i]] <= before[i, extreme[i]] + tolerance
        else:
            stays[i] = not_dominated[i] or (now[i] <= before[i] + tolerance).all()
    return stays


@nb.njit(cache=True)
def forcing_accepts(
    before: Objectives,
    now: Objectives,
    extreme: NDArray[np.intp],
    new: NDArray[np.bool_],
    tolerance: float,
) -> NDArray[np.bool_]:
    """Say which of q forced steps stay: those that dominate what was before, or are new to the front.

    In a cluster that is extreme for an objective, those that are strictly better in that objective.
    """
    stays = np.empty(len(now), np.bool_)
    for i in range(len(now)):
        if extreme[i] >= 0:
            stays[i] = now[i, extreme[i]] < before[i, extreme[i]] - tolerance
        else:
            nowhere_worse = (now[i] <= before[i] + tolerance).all()
            stays[i] = new[i] or (nowhere_worse and (now[i] < before[i] - tolerance).any())
    return stays
