"""Which genes belong together: mutual information between genes, and the tree that clusters them by it."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from encas.search.algorithm import Genomes


def mutual_information(genomes: Genomes) -> NDArray[np.float64]:
    """(..., g, g) mutual information in bits between genes, from plain frequencies in (..., n, g) genomes.

    Leading axes are separate groups of genomes. The diagonal is each gene's entropy.
    """
    *groups, _, g = genomes.shape
    first, second = np.triu_indices(g)
    # One number for each pair of values; i and i pair up on the diagonal, where the joint entropy is H(i).
    joint = genomes[..., first] * (genomes.max(initial=0) + 1) + genomes[..., second]
    h_joint = np.zeros((*groups, g, g))
    h_joint[..., first, second] = h_joint[..., second, first] = _entropy(joint)
    h = np.diagonal(h_joint, axis1=-2, axis2=-1)
    information: NDArray[np.float64] = h[..., :, None] + h[..., None, :] - h_joint
    return information


def _entropy(symbols: NDArray[np.intp]) -> NDArray[np.float64]:
    """(..., q) entropies in bits of the columns of (..., n, q) symbols."""
    *groups, n, q = symbols.shape
    rows = np.sort(np.moveaxis(symbols, -2, -1), axis=-1).reshape(-1, n)
    starts = np.ones(rows.shape, np.bool_)
    starts[:, 1:] = rows[:, 1:] != rows[:, :-1]
    positions = np.flatnonzero(starts)
    counts = np.diff(positions, append=rows.size)
    # Every row begins a run, so that runs never cross rows.
    sums = np.add.reduceat(counts * np.log2(counts), np.searchsorted(positions, np.arange(len(rows)) * n))
    entropy: NDArray[np.float64] = (np.log2(n) - sums / n).reshape(*groups, q)
    return entropy


def linkage_tree(similarity: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(2 g - 1, g) sets of genes as masks: the single genes, then the merged groups, the root last.

    Average linkage (UPGMA) by nearest-neighbour chains. Of equally similar groups the smaller one is nearer;
    what is then still equal is decided by a random order of the genes.
    """
    order = rng.permutation(len(similarity))
    return _tree(similarity[np.ix_(order, order)], order)


@njit(cache=True)
def _tree(between: NDArray[np.float64], genes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Merge groups that live in g slots, one gene each at first; the union of two takes a slot of theirs."""
    g = len(between)
    masks = np.zeros((2 * g - 1, g), np.bool_)
    for gene in range(g):
        masks[gene, gene] = True
    node, sizes, alive = genes.copy(), np.ones(g, np.intp), np.ones(g, np.bool_)
    chain, length = np.empty(g, np.intp), 0
    for merged in range(g, 2 * g - 1):
        if length == 0:
            chain[0], length = alive.argmax(), 1
        while True:
            before = chain[length - 2] if length > 1 else -1
            nearest = _nearest(chain[length - 1], before, between, alive, sizes)
            if nearest == before:
                break
            chain[length] = nearest
            length += 1
        a, b = chain[length - 1], chain[length - 2]
        length -= 2
        masks[merged] = masks[node[a]] | masks[node[b]]
        node[a] = merged
        alive[b] = False
        for other in range(g):  # similarities average over all pairs of genes
            if alive[other] and other != a:
                total = sizes[a] * between[a, other] + sizes[b] * between[b, other]
                between[a, other] = between[other, a] = total / (sizes[a] + sizes[b])
        sizes[a] += sizes[b]
    return masks


@njit(cache=True)
def _nearest(
    tip: int,
    before: int,
    between: NDArray[np.float64],
    alive: NDArray[np.bool_],
    sizes: NDArray[np.intp],
) -> int:
    """Find the group most similar to `tip`; `before` wins every tie, or chains might run in circles."""
    best = before
    for other in range(len(between)):
        if not alive[other] or other in (tip, before):
            continue
        gain = 1.0 if best < 0 else between[tip, other] - between[tip, best]
        if gain > 0 or (gain == 0 and best != before and sizes[other] < sizes[best]):
            best = other
    return best
