"""Problems of zeros and ones whose whole front is known, from the literature on MO-GOMEA."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from encas.search.algorithm import Algorithm, Genomes, Objectives


@dataclass(frozen=True)
class KnownProblem:
    """Both objectives are counts to be maximised, so they are negated."""

    n_genes: int
    objectives: Callable[[Genomes], Objectives]
    front: list[tuple[int, int]]  # by rising first objective, not negated


def zeromax_onemax(n_genes: int) -> KnownProblem:
    """As many zeros and as many ones as possible: every genome is on the front."""

    def objectives(genomes: Genomes) -> Objectives:
        ones = genomes.sum(axis=1)
        return -np.column_stack([n_genes - ones, ones]).astype(float)

    return KnownProblem(n_genes, objectives, [(i, n_genes - i) for i in range(n_genes + 1)])


def trap_inverse_trap(n_blocks: int) -> KnownProblem:
    """Deceptive blocks of five genes: all ones (or zeros) are best, and all else leads away from it."""

    def trap(ones: Genomes) -> Genomes:
        counts: Genomes = np.where(ones == 5, 5, 4 - ones).sum(axis=1)
        return counts

    def objectives(genomes: Genomes) -> Objectives:
        ones = genomes.reshape(len(genomes), n_blocks, 5).sum(axis=2)
        return -np.column_stack([trap(ones), trap(5 - ones)]).astype(float)

    # i blocks of ones count 5 and 4, the other blocks 4 and 5.
    return KnownProblem(
        5 * n_blocks, objectives, [(4 * n_blocks + i, 5 * n_blocks - i) for i in range(n_blocks + 1)]
    )


def leading_ones_trailing_zeros(n_genes: int) -> KnownProblem:
    """As many ones as possible before the first zero, and zeros after the last one."""

    def objectives(genomes: Genomes) -> Objectives:
        leading = np.cumprod(genomes, axis=1).sum(axis=1)
        trailing = np.cumprod(1 - genomes[:, ::-1], axis=1).sum(axis=1)
        return -np.column_stack([leading, trailing]).astype(float)

    return KnownProblem(n_genes, objectives, [(i, n_genes - i) for i in range(n_genes + 1)])


def found_after(algorithm: Algorithm, problem: KnownProblem, at_most: int) -> int | None:
    """How many different genomes it takes until every point of the front was seen; None: more than that."""
    missing = set(problem.front)
    seen: set[bytes] = set()
    while len(seen) < at_most:
        genomes = algorithm.ask()
        if not len(genomes):
            return None
        objectives = problem.objectives(genomes)
        seen |= {genome.tobytes() for genome in genomes.astype(np.uint8)}
        missing -= {(int(-a), int(-b)) for a, b in objectives}
        if not missing:
            return len(seen)
        algorithm.tell(objectives)
    return None
