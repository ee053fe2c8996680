"""The architectures of one supernetwork, or of several as one population, as rows of genes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput
from encas.search.nat.encoding import as_text, decode, encode, gene_ranges
from encas.search.nat.macs import count_macs
from encas.search.nat.space import Arch, Space

Genes = NDArray[np.int64]  # (p, g)


@dataclass(frozen=True)
class Population:
    """With several spaces, a first gene says which one an architecture is of, and the others are its own."""

    spaces: tuple[Space, ...]
    n_classes: int

    def __post_init__(self) -> None:
        """Check that the genes of one space can be crossed with those of another."""
        first = self.spaces[0]
        for other in self.spaces[1:]:
            if (other.searched, gene_ranges(other)) != (first.searched, gene_ranges(first)):
                raise InvalidInput(f"{other.name} has other genes than {first.name}: they cannot be crossed")

    @cached_property
    def bounds(self) -> tuple[Genes, Genes]:
        """(g,) least and (g,) largest value of each gene."""
        ranges = [(values[0], values[-1]) for values in gene_ranges(self.spaces[0])]
        if len(self.spaces) > 1:
            ranges.insert(0, (0, len(self.spaces) - 1))
        low, high = np.array(ranges, np.int64).T
        return low, high

    @cached_property
    def ends(self) -> Genes:
        """The smallest and the largest architecture of each space."""
        low, high = self.bounds
        rows = [(low, high)]
        if len(self.spaces) > 1:
            rows = [
                (np.array([which, *low[1:]]), np.array([which, *high[1:]]))
                for which in range(len(self.spaces))
            ]
        return self.canonical(np.vstack(rows))

    @property
    def largest_macs(self) -> int:
        """MACs of the largest network of all."""
        return max(count_macs(space, space.largest, self.n_classes) for space in self.spaces)

    def apart(self, genes: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Which space it is, and the genes that the space itself knows."""
        own = tuple(int(gene) for gene in genes)
        return (0, own) if len(self.spaces) == 1 else (own[0], own[1:])

    def arch(self, genes: Sequence[int]) -> tuple[int, Arch]:
        """Which space, and the architecture of it."""
        which, own = self.apart(genes)
        return which, decode(self.spaces[which], own)

    def canonical(self, genes: Genes) -> Genes:
        """(p, g) genes in the form that is unique for an architecture."""
        rows = []
        for row in genes.tolist():
            which, arch = self.arch(row)
            own = encode(self.spaces[which], arch)
            rows.append(own if len(self.spaces) == 1 else (which, *own))
        return np.array(rows, np.int64)

    def macs(self, genes: Genes) -> NDArray[np.float64]:
        """(p,) exact MACs of (p, g) genes."""
        found = [self.arch(row) for row in genes.tolist()]
        macs = [count_macs(self.spaces[which], arch, self.n_classes) for which, arch in found]
        return np.array(macs, np.float64)


def mixed(genes: Genes, n: int, rng: np.random.Generator) -> Genes:
    """(n, g) genes, each drawn by itself from what (p, g) architectures have there.

    So what most of them have is trained most, in combinations that none of them needs to have: what the
    original transfer does instead of training the architectures themselves.
    """
    return np.column_stack([rng.choice(column, n) for column in genes.T])


def numbers(text: str) -> tuple[int, ...]:
    """Read genes with dots between them."""
    return tuple(int(part) for part in text.split("."))


def texts(genes: Genes) -> list[str]:
    """Write rows of genes with dots between them."""
    return [as_text(row) for row in genes.tolist()]
