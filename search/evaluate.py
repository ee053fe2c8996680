"""Error and cost of many cascades on a pool's recorded outputs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Combine
from encas.cost import CostModel, PerSample
from encas.errors import InvalidInput
from encas.pool import Member, Pool
from encas.search import kernels, shortlist
from encas.search.algorithm import Genomes, Objectives
from encas.search.dense import Dense
from encas.search.genome import N_THRESHOLDS, Space
from encas.search.shortlist import Source
from encas.search.sweep import Table

if TYPE_CHECKING:
    from encas.search.kernels_cuda import OnDevice

Device = Literal["cpu", "cuda"]
_LOOK_EVERY = 10_000  # evaluations after which the pool's files are looked at again
_WORTH_THREADS = 600_000  # cascades times samples times width from which on waking other threads pays


@dataclass(frozen=True)
class Counts:
    """What happened to the samples, for p cascades of at most k stages."""

    right: NDArray[np.int64]  # (p,) samples answered rightly
    reached: NDArray[np.int64]  # (p, k) samples that each stage was run for

    @classmethod
    def none(cls, p: int, k: int) -> "Counts":
        """Count nothing yet."""
        return cls(np.zeros(p, np.int64), np.zeros((p, k), np.int64))

    def __add__(self, other: "Counts") -> "Counts":
        """Count two sets of samples together."""
        return Counts(self.right + other.right, self.reached + other.reached)


@dataclass(frozen=True)
class _Recorded:
    """What m members answered on n samples, the hardest first."""

    samples: NDArray[np.intp]  # (n,) their places in the split
    labels: NDArray[np.int64]  # (n,)
    lanes: NDArray[np.intp]  # (n,) the label's place among a sample's classes, or width
    values: kernels.Bits  # (m * n, width)
    confidence: NDArray[np.float32]  # (m, n) of each member alone
    is_right: NDArray[np.bool_]  # (m, n)


class Evaluator:
    """Error and mean cost per sample of cascades, equal to `encas.cascade.run_cascade` to the sample.

    The first stage is looked up in tables; later ones are computed for the samples that get there, on
    shortlists of classes. The few samples for which those do not tell the answer are run on all classes.
    """

    def __init__(
        self,
        pool: Pool,
        split: str,
        members: Sequence[Member],
        costs: CostModel | NDArray[np.float64],
        max_stages: int,
        workers: int,
        rows: NDArray[np.intp] | None,
        device: Device,
    ) -> None:
        """Use `open`."""
        self.space = Space(len(members), max_stages)
        self._model: CostModel = PerSample(costs) if isinstance(costs, np.ndarray) else costs
        self.costs = self._model.singles
        self._worst = 1.0, max_stages * float(self.costs.max())
        self._pool, self._split, self._members = pool, split, members
        self._sources = self._states()
        self._recorded = _recorded(pool, split, self._members, workers, rows)
        self._dense = Dense(pool, split, [member.name for member in members])
        self._threads = ThreadPoolExecutor(workers)
        n_shares = 1 if device == "cuda" else min(workers, self.n)
        self._shares = list(
            self._threads.map(
                lambda share: _Share.of(self._recorded, np.arange(share, self.n, n_shares)), range(n_shares)
            )
        )
        self._on_device = self._shares[0].on_device() if device == "cuda" else None
        self._looked = 0

    @classmethod
    def open(
        cls,
        pool: Pool,
        split: str,
        members: Sequence[Member],
        costs: CostModel | NDArray[np.float64],
        *,
        max_stages: int,
        workers: int = 1,
        rows: NDArray[np.intp] | None = None,
        device: Device = "cpu",
    ) -> "Evaluator":
        """Read and check what the members answered on a split.

        For more than 31 classes the first call prepares shortlists (`encas.search.shortlist`) in the pool.

        Args:
            pool: Its files must stay as they are while the evaluator is used.
            split: The labelled samples.
            members: Member i is gene value i + 1.
            costs: Tells what a cascade costs; or (m,), the cost of one sample for each member.
            max_stages: Length of the longest cascade.
            workers: Threads, each for a part of the samples; the results do not depend on their number.
            rows: Of the split, to count on; by default all.
            device: What counts: "cuda" is for large pools; the results are the same.

        Raises:
            InvalidInput: A member has no outputs on this split, they are no probabilities, or there is no
                such device.
        """
        return cls(pool, split, members, costs, max_stages, workers, rows, device)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self._recorded.labels)

    def table(self, members: NDArray[np.intp], combine: Combine = "mean") -> Table:
        """Tell what each of k stages would say of every sample, whoever has left before."""
        recorded = self._recorded
        table = Table(recorded.confidence[members], recorded.is_right[members])
        if combine == "mean" and len(members) > 1:
            unsure = np.empty(self.n, np.bool_)
            kernels.watch(recorded.values, recorded.lanes, members, table.confidence, table.is_right, unsure)
            found = self._dense.watch(members, recorded.samples[unsure])
            table.confidence[:, unsure], table.is_right[:, unsure] = found
        return table

    def objectives(self, genomes: NDArray[Any]) -> NDArray[np.float64]:
        """(p, 2): error in [0, 1] and mean cost per sample of (p, g) genomes.

        A genome without members gets the worst there can be: error 1 and the cost of `max_stages` times the
        dearest member.

        Raises:
            InvalidInput: The pool's files have changed.
        """
        return self.of_canonical(self.space.canonical(genomes))

    def of_canonical(self, genomes: Genomes) -> Objectives:
        """Do what `objectives` does for genomes that are known to be right and in canonical form."""
        out = self.priced(genomes, self._counts(genomes))
        self._looked += len(out)
        if self._looked >= _LOOK_EVERY:
            self.check()
        return out

    def priced(self, genomes: Genomes, counts: Counts) -> Objectives:
        """(p, 2) objectives, from what was counted of genomes in canonical form; thresholds do not matter."""
        members = genomes[:, : self.space.max_stages] - 1
        out = np.empty((len(genomes), 2))
        out[:, 0] = 1 - counts.right / self.n
        out[:, 1] = self._model.mean(members, counts.reached, self.n)
        out[genomes[:, 0] == 0] = self._worst
        return out

    def counts(self, genomes: NDArray[Any]) -> Counts:
        """Count right answers and runs of every stage; nothing for a genome without members."""
        return self._counts(self.space.canonical(genomes))

    def check(self) -> None:
        """Make sure that the pool's files are still those that were read.

        Raises:
            InvalidInput: One of them has changed.
        """
        self._looked = 0
        for member, before, now in zip(self._members, self._sources, self._states(), strict=True):
            if before != now:
                path = self._pool.path / member.outputs[self._split].probs
                raise InvalidInput(f"{path}: has changed since the search began; search again")

    def _states(self) -> list[Source]:
        return [Source.of(self._pool, member, self._split) for member in self._members]

    def _counts(self, genomes: Genomes) -> Counts:
        shares, shape = self._shares, (len(genomes), self.space.max_stages)
        if self._on_device is not None:
            counts = Counts.none(*shape)
            shares[0].look_up(genomes, counts)
            unsure = [self._on_device.run(genomes, counts.right, counts.reached)]
        elif len(genomes) * self.n * self._recorded.values.shape[1] < _WORTH_THREADS:
            counts = Counts.none(*shape)
            unsure = [some for share in shares for some in share.run(genomes, counts)]
        else:
            parts = [Counts.none(*shape) for _ in shares]
            found = self._threads.map(_Share.run, shares, [genomes] * len(shares), parts)
            unsure = [some for more in found for some in more]
            counts = reduce(add, parts)
        if sum(map(len, unsure)):
            cascades, places = np.concatenate(unsure).T
            samples = self._recorded.samples[places]
            self._dense.run(genomes, cascades, samples, counts.right, counts.reached)
        return counts


def _recorded(
    pool: Pool, split: str, members: Sequence[Member], workers: int, rows: NDArray[np.intp] | None
) -> _Recorded:
    made = shortlist.read(pool, split, members, workers)
    confidence = made.tops[:, :, 0].view(np.float16).astype(np.float32)
    # Most cascades stop early for most samples: the others lie side by side in memory.
    samples = np.argsort(confidence.mean(axis=0), kind="stable")
    samples = samples if rows is None else samples[np.isin(samples, rows)]
    made = made.of(list(range(len(members))), samples)
    labels = pool.labels(split)[samples]
    is_label = made.classes == labels[:, None]
    width = made.values.shape[2]
    return _Recorded(
        samples=samples,
        labels=labels,
        lanes=np.where(is_label.any(axis=1), is_label.argmax(axis=1), width),
        values=made.values.reshape(-1, width),
        confidence=confidence[:, samples],
        is_right=made.tops[:, :, 1] == labels,
    )


@dataclass(frozen=True)
class _Share:
    """A worker's part of the samples, sorted by each member; see `encas.search.kernels.run`."""

    recorded: _Recorded
    order: NDArray[np.int32]  # (m, a)
    starts: NDArray[np.int64]  # (m, 53)
    rights: NDArray[np.int64]  # (m, 53)
    room: NDArray[np.intp]  # (2 a, 2) for the unsure samples of a call

    @classmethod
    def of(cls, recorded: _Recorded, samples: NDArray[np.intp]) -> "_Share":
        m = len(recorded.confidence)
        order = np.empty((m, len(samples)), np.int32)
        starts, rights = np.empty((2, m, N_THRESHOLDS + 2), np.int64)
        kernels.rank(recorded.confidence, recorded.is_right, samples.astype(np.int32), order, starts, rights)
        return cls(recorded, order, starts, rights, np.empty((2 * len(samples), 2), np.intp))

    def on_device(self) -> "OnDevice":
        """Copy the samples to a CUDA device, where those that first stages leave over are counted."""
        from encas.search.kernels_cuda import OnDevice  # noqa: PLC0415  # numba looks for devices then

        return OnDevice(self.recorded.values, self.recorded.lanes, self.order, self.starts)

    def look_up(self, genomes: Genomes, counts: Counts) -> None:
        """Count what first stages make of these samples, and all that they answer."""
        max_stages = counts.reached.shape[1]
        some = np.flatnonzero(genomes[:, 0])
        several = genomes[some, 1] > 0 if max_stages > 1 else np.zeros(len(some), np.bool_)
        exceeded = np.where(several, genomes[some, max_stages % genomes.shape[1]] + 1, 0)
        counts.reached[some, 0] += self.order.shape[1]
        counts.right[some] += self.rights[genomes[some, 0] - 1, exceeded]

    def run(self, genomes: Genomes, counts: Counts) -> list[NDArray[np.intp]]:
        """Count these samples too, except for the (q, 2) cascades and samples that are returned."""
        unsure, done = [], 0
        while done < len(genomes):
            done, n_unsure = kernels.run(
                genomes,
                self.recorded.values,
                self.recorded.lanes,
                self.order,
                self.starts,
                self.rights,
                done,
                counts.right,
                counts.reached,
                self.room,
            )
            if n_unsure:
                unsure.append(self.room[:n_unsure].copy())
        return unsure
