"""Different genomes, numbered in the order in which they come."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from encas.search.algorithm import Genomes

_NONE = -1
Packed = NDArray[np.uint16]


class Index:
    """Knows genomes again; a hash table with open addressing, since a search asks millions of times."""

    def __init__(self, n_genes: int) -> None:
        self._genomes = np.empty((1024, n_genes), np.uint16)
        self._slots = np.full(4096, _NONE)  # numbers of genomes, each at or behind the place of its hash
        self._size = 0

    def __len__(self) -> int:
        """Count the genomes."""
        return self._size

    def since(self, number: int) -> Genomes:
        """(p, g) genomes from a number on."""
        return self._genomes[number : self._size].astype(np.intp)

    def find(self, genomes: Genomes) -> NDArray[np.intp]:
        """(p,) numbers of (p, g) genomes, -1 for those that are not here."""
        numbers = np.empty(len(genomes), np.intp)
        _find(np.ascontiguousarray(genomes, np.uint16), self._genomes, self._slots, numbers)
        return numbers

    def number(self, genomes: Genomes, at_most: int | None = None) -> NDArray[np.intp]:
        """Numbers of (p, g) genomes; those that are not here yet are added.

        The result ends before the genome that would make it more than `at_most`.
        """
        self._make_room(self._size + len(genomes))
        numbers = np.empty(len(genomes), np.intp)
        limit = self._size + len(genomes) if at_most is None else at_most
        packed = np.ascontiguousarray(genomes, np.uint16)
        answered, self._size = _add(packed, self._genomes, self._slots, self._size, limit, numbers)
        return numbers[:answered]

    def _make_room(self, size: int) -> None:
        if size > len(self._genomes):
            grown = np.empty((2 * size, self._genomes.shape[1]), np.uint16)
            grown[: self._size] = self._genomes[: self._size]
            self._genomes = grown
        if 2 * size > len(self._slots):
            self._slots = np.full(4 * size, _NONE)
            here = self._genomes[: self._size]
            _add(here, self._genomes, self._slots, 0, self._size, np.empty(self._size, np.intp))


@njit(cache=True)
def _slot(genomes: Packed, row: int, known: Packed, slots: NDArray[np.intp]) -> int:
    """Where in `slots` a genome's number stands, or is to stand."""
    mixed = np.uint64(0xCBF29CE484222325)
    for j in range(genomes.shape[1]):
        mixed = (mixed ^ np.uint64(genomes[row, j])) * np.uint64(0x9E3779B97F4A7C15)
    slot = int(np.intp((mixed >> np.uint64(20)) % np.uint64(len(slots))))
    while slots[slot] != _NONE:
        same = True
        for j in range(genomes.shape[1]):
            same &= known[slots[slot], j] == genomes[row, j]
        if same:
            break
        slot = slot + 1 if slot + 1 < len(slots) else 0
    return slot


@njit(cache=True)
def _find(genomes: Packed, known: Packed, slots: NDArray[np.intp], numbers: NDArray[np.intp]) -> None:
    for row in range(len(genomes)):
        numbers[row] = slots[_slot(genomes, row, known, slots)]


@njit(cache=True)
def _add(
    genomes: Packed,
    known: Packed,
    slots: NDArray[np.intp],
    size: int,
    limit: int,
    numbers: NDArray[np.intp],
) -> tuple[int, int]:
    """Fill in numbers, up to the genome that would exceed the limit; how many, and the new size."""
    for row in range(len(genomes)):
        slot = _slot(genomes, row, known, slots)
        if slots[slot] == _NONE:
            if size >= limit:
                return row, size
            for j in range(genomes.shape[1]):
                known[size, j] = genomes[row, j]
            slots[slot] = size
            size += 1
        numbers[row] = slots[slot]
    return len(genomes), size
