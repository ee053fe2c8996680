"""A pool's outputs on a split, reduced for every sample to the classes that matter for it.

Whoever wins the mean of some members' probabilities is nearly always among the few classes that some member
finds probable. So the shortlist holds, for every sample, the probabilities of the same 31 classes for all
members, and of all its other classes the largest: 64 bytes instead of 2,000 for 1,000 classes, and exact all
the same. Pools of few classes keep all of them. Shortlists of larger pools are prepared once and kept in the
pool's folder.
"""

import errno
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput
from encas.files import FileModel, locked, read_model, read_npy, write_model, write_npy
from encas.pool import SUM_TOLERANCE, Member, Pool, check_probs
from encas.search.kernels import LANES, Bits, condense, survey

WIDTH = 2 * LANES  # numbers per member and sample: classes, and the largest of all others
_ARRAYS = ("classes", "values", "tops")
_BLOCK_BYTES = 1 << 26  # probabilities of all members that are looked at together


class Source(FileModel):
    """State of a file of probabilities."""

    sha256: str
    n_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, pool: Pool, member: Member, split: str) -> "Source":
        """Take the state of the file now.

        Raises:
            InvalidInput: The file is gone.
        """
        path = pool.path / member.outputs[split].probs
        try:
            status = path.stat()
        except FileNotFoundError:
            raise InvalidInput(f"{path}: no such file") from None
        return cls(
            sha256=member.outputs[split].sha256, n_bytes=status.st_size, modified_ns=status.st_mtime_ns
        )


class ShortlistFile(FileModel):
    """`shortlist.json`, beside the arrays; `sources` are in the order of the arrays' members."""

    format: Literal["encas-shortlist/1"] = "encas-shortlist/1"
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class Shortlist:
    """Outputs of m members on n samples; numbers are the bits of float16."""

    classes: NDArray[np.uint16]  # (n, width - 1) rising, and beyond the last the number of classes
    values: Bits  # (m, n, width) probabilities of these classes, and the largest of all others
    tops: Bits  # (m, n, 2) the largest probability, and its first class

    def of(self, members: list[int], samples: NDArray[np.intp]) -> "Shortlist":
        """Take some members and some samples, in this order, in memory."""
        values = self.values[:, : len(samples)]
        if isinstance(values, np.memmap) or members != list(range(len(values))):
            values = np.empty((len(members), *values.shape[1:]), np.uint16)
        for member, out in zip(members, values, strict=True):
            out[...] = self.values[member][samples]
        return Shortlist(self.classes[samples], values, self.tops[members][:, samples])


def read(pool: Pool, split: str, members: Sequence[Member], workers: int = 1) -> Shortlist:
    """Read members' outputs, and prepare and keep their shortlist if that was not done.

    Args:
        pool: Read, and for more than 31 classes written to, if that is allowed.
        split: The labelled samples.
        members: In the order of the result.
        workers: Threads that prepare.

    Raises:
        InvalidInput: A member has no outputs on this split, they are no probabilities, or there are more than
            65,535 classes.
    """
    if pool.n_classes > np.iinfo(np.uint16).max:
        raise InvalidInput(f"{pool.path}: a search can have 65,535 classes at most, found {pool.n_classes}")
    for member in members:
        pool.probs(member.name, split)
    folder = pool.path / split / "shortlist"
    if pool.n_classes < WIDTH:
        return _made(pool, split, members, workers)
    try:
        with locked(folder):
            return _kept(folder, pool, split, members) or _made_and_kept(
                folder, pool, split, members, workers
            )
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _made(pool, split, members, workers)


def _kept(folder: Path, pool: Pool, split: str, members: Sequence[Member]) -> Shortlist | None:
    """Find a shortlist that was kept, unless the files that it was made from are others now."""
    try:
        file = read_model(folder / "shortlist.json", ShortlistFile)
        arrays = [read_npy(folder / f"{name}.npy", memory_map=True) for name in _ARRAYS]
    except InvalidInput:
        return None  # there is none, or of another version, or damaged: it is made anew
    m, n = len(file.sources), pool.split(split).n
    if [array.shape for array in arrays] != [(n, WIDTH - 1), (m, n, WIDTH), (m, n, 2)]:
        return None
    if any(file.sources.get(member.name) != Source.of(pool, member, split) for member in members):
        return None
    names = list(file.sources)
    return Shortlist(*arrays).of([names.index(member.name) for member in members], np.arange(n))


def _made_and_kept(
    folder: Path, pool: Pool, split: str, members: Sequence[Member], workers: int
) -> Shortlist:
    """Make the shortlist of all members; its description is written last, so what it describes is whole."""
    everyone = pool.members_with(split)
    sources = {member.name: Source.of(pool, member, split) for member in everyone}
    made = _made(pool, split, everyone, workers)
    (folder / "shortlist.json").unlink(missing_ok=True)
    for name in _ARRAYS:
        write_npy(folder / f"{name}.npy", getattr(made, name))
    write_model(folder / "shortlist.json", ShortlistFile(sources=sources))
    names = list(sources)
    return made.of([names.index(member.name) for member in members], np.arange(len(made.classes)))


def _made(pool: Pool, split: str, members: Sequence[Member], workers: int) -> Shortlist:
    """Make a shortlist from the recorded outputs, a block of samples after the other."""
    outputs = [pool.probs(member.name, split) for member in members]
    m, (n, c) = len(outputs), outputs[0].shape
    width = WIDTH if c >= LANES else LANES
    made = Shortlist(
        np.empty((n, width - 1), np.uint16),
        np.empty((m, n, width), np.uint16),
        np.empty((m, n, 2), np.uint16),
    )
    block = max(1, min(4096, _BLOCK_BYTES // (m * c * 2)))

    def fill(start: int) -> None:
        rows = slice(start, min(n, start + block))
        bits = np.empty((m, rows.stop - start, c), np.uint16)
        for output, out in zip(outputs, bits, strict=True):
            out[...] = bits_of(output, rows)
        merits, sums, sane = (
            np.zeros(bits.shape[1:], np.float32),
            np.empty(m, np.float32),
            np.empty(m, np.bool_),
        )
        survey(bits, merits, made.tops[:, rows], sums, sane)
        for doubtful in np.flatnonzero(~sane | (np.abs(sums - 1) > 0.99 * SUM_TOLERANCE)).tolist():
            check_probs(outputs[doubtful], n, c, f"outputs of '{members[doubtful].name}' on '{split}'")
        made.classes[rows] = _best(merits, width - 1)
        condense(bits, made.classes[rows], made.values[:, rows])

    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(fill, range(0, n, block)))
    return made


def bits_of(output: NDArray[np.float16], rows: slice) -> Bits:
    """Read some rows of a file, not through its memory map: mapped pages would pile up in our memory."""
    if not isinstance(output, np.memmap) or output.filename is None or not output.flags.c_contiguous:
        return np.ascontiguousarray(output[rows]).view(np.uint16)
    c, count = output.shape[1], (rows.stop - rows.start) * output.shape[1]
    bits = np.fromfile(output.filename, np.uint16, count, offset=output.offset + rows.start * c * 2)
    if len(bits) != count:
        raise InvalidInput(f"{output.filename}: was cut off while it was read; record it again")
    return bits.reshape(-1, c)


def _best(merits: NDArray[np.float32], count: int) -> NDArray[np.uint16]:
    """(b, count) the classes of most merit, rising; all of them and c, if there are not so many."""
    b, c = merits.shape
    if c <= count:
        return np.broadcast_to(np.minimum(np.arange(count), c), (b, count)).astype(np.uint16)
    best = np.argpartition(merits, c - count, axis=1)[:, c - count :]
    return np.sort(best, axis=1).astype(np.uint16)
