"""All probabilities of the few samples for which shortlists do not tell the answer.

They are hard ones, the same again and again, so what was read once is kept.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encas.pool import Pool
from encas.search.algorithm import Genomes
from encas.search.index import Index
from encas.search.kernels import Bits, Counts, Indices, run_dense
from encas.search.shortlist import bits_of

_KEPT_BYTES = 1 << 30  # beyond that everything is forgotten
_BLOCK_BYTES = 1 << 26  # probabilities that may be read at once


class Dense:
    """Runs cascades on single samples, with the arithmetic of `encas.cascade.run_cascade`."""

    def __init__(self, pool: Pool, split: str, names: Sequence[str]) -> None:
        self._pool, self._split, self._names = pool, split, names
        self._labels = pool.labels(split)
        self._outputs: dict[int, NDArray[np.float16]] = {}
        self._forget()

    def _forget(self) -> None:
        self._index = Index(3)  # member, and a sample's number as two halves
        self._rows = np.empty((64, self._pool.n_classes), np.uint16)

    def run(
        self, genomes: Genomes, cascades: Indices, samples: Indices, right: Counts, reached: Counts
    ) -> None:
        """Run cascade i on sample i, and count what happens.

        Args:
            genomes: (p, 2 k - 1) in canonical form.
            cascades: (q,) rows of the genomes.
            samples: (q,) places in the split.
            right: (p,) to which right answers are added.
            reached: (p, k) to which runs of every stage behind the first are added.

        Raises:
            InvalidInput: The pool's files have changed.
        """
        max_stages = reached.shape[1]
        block = max(1, _BLOCK_BYTES // (max_stages * self._rows.shape[1] * 2))
        for start in range(0, len(cascades), block):
            some, here = cascades[start : start + block], samples[start : start + block]
            members = genomes[some, :max_stages] - 1
            places = self._places(members, np.broadcast_to(here[:, None], members.shape))
            run_dense(genomes, some, self._labels[here], self._rows, places, right, reached)

    def watch(self, members: Indices, samples: Indices) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(k, q) how sure the mean of k members so far is of each sample, and whether it is right."""
        confidence, is_right = np.empty((2, len(members), len(samples)), np.float32)
        block = max(1, _BLOCK_BYTES // (len(members) * self._rows.shape[1] * 2))
        for start in range(0, len(samples), block):
            here = samples[start : start + block]
            shape = len(here), len(members)
            places = self._places(np.broadcast_to(members, shape), np.broadcast_to(here[:, None], shape))
            total = np.zeros((len(here), self._rows.shape[1]), np.float32)
            for j in range(len(members)):
                total += self._rows[places[:, j]].view(np.float16)
                mean = total / np.float32(j + 1)
                confidence[j, start : start + block] = mean.max(axis=1)
                is_right[j, start : start + block] = mean.argmax(axis=1) == self._labels[here]
        return confidence, is_right > 0

    def _places(self, members: NDArray[np.intp], samples: NDArray[np.intp]) -> NDArray[np.intp]:
        """(q, k) rows of what members answered on samples; those that are not here yet are read."""
        if len(self._index) * self._rows.shape[1] * 2 > _KEPT_BYTES:
            self._forget()
        is_real = members >= 0
        wanted = np.column_stack([members[is_real], samples[is_real] >> 16, samples[is_real] & 0xFFFF])
        known = len(self._index)
        places = np.full(members.shape, -1)
        places[is_real] = self._index.number(wanted)
        if len(self._index) > len(self._rows):
            grown = np.empty((2 * len(self._index), self._rows.shape[1]), np.uint16)
            grown[:known] = self._rows[:known]
            self._rows = grown
        for row, (member, high, low) in enumerate(self._index.since(known).tolist(), known):
            self._rows[row] = self._read(member, high << 16 | low)
        return places

    def _read(self, member: int, sample: int) -> Bits:
        if member not in self._outputs:
            self._outputs[member] = self._pool.probs(self._names[member], self._split)
        row: Bits = bits_of(self._outputs[member], slice(sample, sample + 1))[0]
        return row
