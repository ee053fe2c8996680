"""Children of the archive: a member crossed with one that is near, and some genes moved to values close by.

As in NSGA-II all of a child is new when it is evaluated, while gene-pool optimal mixing tries one linkage set
after the other. Parents are those beside the front's widest gaps more often than others.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from encas.search.algorithm import Genomes, Objectives
from encas.search.archive import Archive
from encas.search.near import FAR, Alphabets, nearest

NEAR = 5  # so many members of the archive may be a member's partners, itself among them
CROSSED = 0.5  # of the genes come from the partner
MOVED = 1.0  # genes of a child that are moved, in the mean


def children(
    archive: Archive,
    alphabets: Alphabets,
    n: int,
    rng: np.random.Generator,
    canonical: Callable[[Genomes], Genomes] | None = None,
    loosened: Callable[[Genomes, np.random.Generator], Genomes] | None = None,
) -> Genomes:
    """(q, g) genomes, at most n, each once, and none of them one of its parents.

    Args:
        archive: Has at least one member.
        alphabets: Of the genes.
        n: Pairs of parents that are drawn.
        rng: The only source of chance.
        canonical: See `encas.search.gomea.MoGomea`. Parents are crossed in this form, in which the same gene
            stands for the same stage.
        loosened: See there. Genes are moved in this form.
    """
    chosen = _drawn(archive.objectives, n, rng)
    near = nearest(archive.objectives[chosen], archive.objectives, NEAR)
    partners = near[np.arange(n), rng.integers(near.shape[1], size=n)]
    one, other = archive.genomes[chosen], archive.genomes[partners]
    genomes = np.where(rng.random(one.shape) < CROSSED, other, one)
    if canonical is not None:
        genomes = canonical(genomes)
    if loosened is not None:
        genomes = loosened(genomes, rng)
    moves = rng.random(one.shape) < MOVED / one.shape[1]
    for gene in range(one.shape[1]):
        rows = np.flatnonzero(moves[:, gene])
        if len(rows):
            by = rng.normal(0, FAR, len(rows))
            genomes[rows] = alphabets.moved(genomes[rows], np.full(len(rows), gene), by)
    if canonical is not None:
        genomes = canonical(genomes)
    is_new = (genomes != one).any(axis=1) & (genomes != other).any(axis=1)
    return np.unique(genomes[is_new], axis=0)


def _drawn(objectives: Objectives, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw n of the archive's members, in two objectives by the areas that lie open beside them."""
    if objectives.shape[1] != 2 or len(objectives) < 3:
        return rng.integers(len(objectives), size=n)
    order = np.lexsort(objectives.T)
    gaps = np.abs(np.diff(objectives[order], axis=0)).prod(axis=1)
    weights = np.concatenate([[0], gaps]) + np.concatenate([gaps, [0]])
    # The root, so that a few wide gaps, such as those at the ends, do not take all.
    sums = np.cumsum(np.sqrt(weights) + np.finfo(float).tiny)
    places = np.searchsorted(sums, rng.random(n) * sums[-1], side="right")
    drawn: NDArray[np.intp] = order[np.minimum(places, len(order) - 1)]
    return drawn
