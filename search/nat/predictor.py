"""Guessing the error of architectures that were never evaluated, from those that were."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Genes = NDArray[np.int64]  # (p, g)
Numbers = NDArray[np.float64]
Features = Genes | Numbers  # genes, or other numbers of about one size
Singles = NDArray[np.float32]

_N_MEMBERS = 500
_AT_ONCE = 4  # genes


class Predictor:
    """The median of many cubic radial basis functions with a linear tail, each on its own genes.

    Source: the predictor of NSGANetV2 and of Neural Architecture Transfer (arXiv:2005.05859).
    """

    def __init__(self, members: list["_Member"], n_genes: int) -> None:
        """Use `fit`."""
        self._members, self._n_genes = members, n_genes

    @classmethod
    def fit(
        cls, genes: Features, values: Numbers, rng: np.random.Generator, n_members: int = _N_MEMBERS
    ) -> "Predictor":
        """Fit (p, g) genes, or other numbers that say as much of an architecture, and (p,) values.

        Each member sees a random number of random genes, as many as tell more architectures apart than the
        linear tail has numbers.

        Raises:
            ValueError: There are too few different architectures.
        """
        values = np.asarray(values, np.float64)
        n_genes = genes.shape[1]
        if len(_different(genes)) < 3:
            raise ValueError("a predictor needs at least 3 different architectures")
        subsets = [_draw_genes(genes, rng) for _ in range(n_members)]
        # Hundreds of small systems: threads of the library would wait for each other within each of them.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor() as threads:
            members = threads.map(lambda used: _Member.fit(used, genes[:, used], values), subsets)
            return cls(list(members), n_genes)

    def predict(self, genes: Features | Singles) -> Numbers:
        """(p,) predictions for (p, g) genes; members that give no number count for nothing."""
        genes = np.asarray(genes, np.float32)
        if genes.ndim != 2 or genes.shape[1] != self._n_genes:
            raise ValueError(f"genes must be (p, {self._n_genes}), are {genes.shape}")
        with ThreadPoolExecutor() as threads:
            guesses = np.stack(list(threads.map(lambda member: member.predict(genes), self._members)))
        finite = np.isfinite(guesses)
        if finite.all():  # four times as fast
            return np.asarray(np.median(guesses, axis=0), np.float64)
        return np.asarray(np.nanmedian(np.where(finite, guesses, np.nan), axis=0), np.float64)


class _Member:
    """One interpolation: exact on what it was fitted to, where that is not contradictory."""

    def __init__(self, used: NDArray[np.intp], centres: Numbers, weights: Numbers, tail: Numbers) -> None:
        self.used = used
        # (u, q), with as many rows of zeros as make it a multiple of what the compiled loop takes at once.
        self.centres = np.zeros((-(-len(used) // _AT_ONCE) * _AT_ONCE, len(centres)), np.float32)
        self.centres[: len(used)] = centres.T
        self.weights, self.tail = weights.astype(np.float32), tail.astype(np.float32)

    @classmethod
    def fit(cls, used: NDArray[np.intp], genes: Features, values: Numbers) -> "_Member":
        """Fit (p, u) genes; of architectures that look the same to it, the first counts."""
        first = _different(genes)
        centres = genes[first].astype(np.float64)
        p, u = centres.shape
        tail = np.hstack([centres, np.ones((p, 1))])
        system = np.zeros((p + u + 1, p + u + 1))
        system[:p, :p] = _cubes(centres, centres)
        system[:p, p:], system[p:, :p] = tail, tail.T
        target = np.concatenate([values[first], np.zeros(u + 1)])
        try:
            solution = np.linalg.solve(system, target)
        except np.linalg.LinAlgError:  # a gene is a mixture of others among these architectures
            solution = np.linalg.lstsq(system, target, rcond=None)[0]
        return cls(used, centres, solution[:p], solution[p:])

    def predict(self, genes: Singles) -> Singles:
        """(p,) guesses for (p, g) genes."""
        own = np.zeros((len(genes), len(self.centres)), np.float32)
        own[:, : len(self.used)] = genes[:, self.used]
        guesses: Singles = own[:, : len(self.used)] @ self.tail[:-1] + self.tail[-1]
        _add_cubes(own, self.centres, self.weights, guesses)
        return guesses


def _draw_genes(genes: Features, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw genes until they tell more architectures apart than there are of them, or all are drawn."""
    n_genes = genes.shape[1]
    while True:
        used = np.sort(rng.choice(n_genes, rng.integers(1, n_genes + 1), replace=False))
        if len(_different(genes[:, used])) > len(used) + 1 or len(used) == n_genes:
            return used


def _cubes(one: Numbers, two: Numbers) -> Numbers:
    """(p, q) cubes of the distances."""
    squares = np.maximum((one**2).sum(1)[:, None] + (two**2).sum(1)[None] - 2 * one @ two.T, 0)
    return np.asarray(squares * np.sqrt(squares))


def _different(genes: Features) -> NDArray[np.intp]:
    """Rows of (p, u) genes, the first of each kind."""
    is_whole = np.issubdtype(genes.dtype, np.integer)
    rows = np.ascontiguousarray(genes.astype(np.int16 if is_whole else np.float64))
    return np.sort(np.unique(rows.view(f"V{rows.strides[0]}").ravel(), return_index=True)[1])


@njit(cache=True, nogil=True, fastmath=True)
def _add_cubes(genes: Singles, centres: Singles, weights: Singles, out: Singles) -> None:
    """Add to (p,) numbers the weighed cubes of (p, u) genes' distances from (u, q) centres.

    u is a multiple of 4. Float32 is twice as fast, and its error far below that of any prediction; so are
    four genes at once, since the sums are then read and written a quarter as often.
    """
    n = centres.shape[1]
    squares = np.empty(n, np.float32)
    for i in range(len(genes)):
        squares[:] = 0
        for f in range(0, genes.shape[1], _AT_ONCE):
            one, two, three, four = genes[i, f], genes[i, f + 1], genes[i, f + 2], genes[i, f + 3]
            for j in range(n):
                a, b = one - centres[f, j], two - centres[f + 1, j]
                c, d = three - centres[f + 2, j], four - centres[f + 3, j]
                squares[j] += (a * a + b * b) + (c * c + d * d)
        total = np.float32(0)
        for j in range(n):
            total += weights[j] * squares[j] * np.sqrt(squares[j])
        out[i] += total
