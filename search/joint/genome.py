"""A cascade of one network of every supernetwork, as a row of genes.

For each supernetwork in turn: the genes of its architecture, its position, and its threshold. Members run by
falling position, of equal ones the first supernetwork first; a member's threshold guards the entry to the
next one. So all members take part always, and a member behind a low threshold is seen by few samples.

Source: ENCAS-joint, Chebykin et al., GECCO 2022, arXiv:2203.04011.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade, Stage
from encas.search.nat.encoding import as_text
from encas.search.nat.population import Genes, Population
from encas.search.nat.space import Space

N_THRESHOLDS = 10  # 0.1, 0.2 .. 1.0, which nobody exceeds


@dataclass(frozen=True)
class JointSpace:
    """All cascades of k supernetworks."""

    spaces: tuple[Space, ...]
    n_classes: int
    # What an architecture's genes look like in their unique form, and its MACs: the search asks for the same
    # again and again.
    _known: dict[tuple[int, bytes], tuple[Genes, float]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def k(self) -> int:
        """How many supernetworks there are, and members of each cascade."""
        return len(self.spaces)

    @cached_property
    def populations(self) -> tuple[Population, ...]:
        """The architectures of each supernetwork."""
        return tuple(Population((space,), self.n_classes) for space in self.spaces)

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """Where each supernetwork's architecture is; position and threshold follow."""
        found, start = [], 0
        for population in self.populations:
            n_genes = len(population.bounds[0])
            found.append(slice(start, start + n_genes))
            start += n_genes + 2
        return tuple(found)

    @cached_property
    def bounds(self) -> tuple[Genes, Genes]:
        """(g,) least and (g,) largest value of each gene."""
        both = [population.bounds for population in self.populations]
        low = np.concatenate([[*one, 0, 0] for one, _ in both])
        high = np.concatenate([[*other, self.k - 1, N_THRESHOLDS - 1] for _, other in both])
        return low, high

    @cached_property
    def ends(self) -> Genes:
        """(2, g): the smallest networks, of which the first answers, and the largest, which all answer."""
        low, high = (row.copy() for row in self.bounds)
        for which, at in enumerate(self.columns):
            low[at.stop] = high[at.stop] = self.k - 1 - which
        return self.canonical(np.vstack([low, high]))

    def positions(self, genes: Genes) -> Genes:
        """(p, k) position genes."""
        return genes[:, [at.stop for at in self.columns]]

    def thresholds(self, genes: Genes) -> Genes:
        """(p, k) threshold genes."""
        return genes[:, [at.stop + 1 for at in self.columns]]

    def order(self, genes: Genes) -> NDArray[np.intp]:
        """(p, k) supernetworks in the order in which their members run."""
        return np.argsort(-self.positions(genes), axis=1, kind="stable")

    def canonical(self, genes: Genes) -> Genes:
        """(p, g) genes, equal where they mean the same cascade.

        Positions become k - 1 .. 0 in the order of running, and the threshold of the last is the largest.
        """
        out, rows = genes.copy(), np.arange(len(genes))
        for which, at in enumerate(self.columns):
            for row in rows:
                out[row, at] = self._canonical_of(which, genes[row, at])[0]
        order = self.order(genes)
        stops = np.array([at.stop for at in self.columns])
        for slot in range(self.k):
            out[rows, stops[order[:, slot]]] = self.k - 1 - slot
        out[rows, stops[order[:, -1]] + 1] = N_THRESHOLDS - 1
        return out

    def macs(self, genes: Genes) -> NDArray[np.float64]:
        """(p, k) MACs of each member."""
        return np.array(
            [
                [self._canonical_of(which, row[at])[1] for which, at in enumerate(self.columns)]
                for row in genes
            ],
            np.float64,
        ).reshape(len(genes), self.k)

    def members(self, genes: Sequence[int] | Genes) -> tuple[str, ...]:
        """(k,) the architectures' genes as text, in the order of the supernetworks."""
        row = [int(gene) for gene in genes]
        return tuple(as_text(row[at]) for at in self.columns)

    def cascade(self, genes: Sequence[int] | Genes, names: Sequence[str]) -> Cascade:
        """Write one row as a cascade, its (k,) members having these names."""
        row = np.asarray(genes, np.int64)[None]
        order, guards = self.order(row)[0].tolist(), self.thresholds(row)[0].tolist()
        stages = [
            Stage(member=names[which], threshold=(guards[which] + 1) / N_THRESHOLDS) for which in order[:-1]
        ]
        return Cascade(stages=(*stages, Stage(member=names[order[-1]])))

    def random(self, rng: np.random.Generator, n: int) -> Genes:
        """(n, g) canonical rows, each gene drawn by itself."""
        low, high = self.bounds
        return self.canonical(rng.integers(low, high + 1, size=(n, len(low))))

    def _canonical_of(self, which: int, own: Genes) -> tuple[Genes, float]:
        key = (which, own.tobytes())
        if key not in self._known:
            canonical = self.populations[which].canonical(own[None])
            found = (canonical[0], float(self.populations[which].macs(canonical)[0]))
            self._known[key] = self._known[(which, canonical[0].tobytes())] = found
        return self._known[key]
