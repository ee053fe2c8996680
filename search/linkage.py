"""Which genes belong together: mutual information between genes, and the tree that clusters them by it."""

import numpy as np
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
    g = len(similarity)
    order = rng.permutation(g)
    between = similarity[np.ix_(order, order)].tolist()
    masks = np.zeros((2 * g - 1, g), np.bool_)
    masks[np.arange(g), np.arange(g)] = True
    sizes = [1] * g
    # Groups live in the g slots; a merged one takes the slot of its first part.
    node = order.tolist()
    alive = list(range(g))
    chain: list[int] = []
    for merged in range(g, 2 * g - 1):
        if not chain:
            chain.append(alive[0])
        while True:
            tip = chain[-1]
            before = chain[-2] if len(chain) > 1 else -1
            nearest = _nearest(tip, before, between[tip], alive, sizes)
            if nearest == before:
                break
            chain.append(nearest)
        a, b = chain.pop(), chain.pop()
        masks[merged] = masks[node[a]] | masks[node[b]]
        node[a] = merged
        alive.remove(b)
        _merge(between, sizes, a, b, alive)
    return masks


def _nearest(tip: int, before: int, similar: list[float], alive: list[int], sizes: list[int]) -> int:
    """Find the group most similar to `tip`; `before` wins every tie, or chains might run in circles."""
    others = [other for other in alive if other != tip]
    return max(others, key=lambda other: (similar[other], other == before, -sizes[other]))


def _merge(between: list[list[float]], sizes: list[int], a: int, b: int, alive: list[int]) -> None:
    """Make slot a the union of a and b: similarities average over all pairs of genes."""
    n = sizes[a] + sizes[b]
    for other in alive:
        if other != a:
            mean = (sizes[a] * between[a][other] + sizes[b] * between[b][other]) / n
            between[a][other] = between[other][a] = mean
    sizes[a] = n
