"""Error and cost of many cascades on a pool's recorded outputs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from encas.pool import Member, Pool, check_probs
from encas.search.genome import THRESHOLDS, Space

Bits = NDArray[np.uint16]  # float16 numbers as they lie in the file
# The float32 value of every float16: a table is read quicker than bits are converted.
_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


@dataclass(frozen=True)
class Counts:
    """What happened to the samples, for p cascades of at most k stages."""

    right: NDArray[np.int64]  # (p,) samples answered rightly
    reached: NDArray[np.int64]  # (p, k) samples that each stage was run for


@dataclass(frozen=True)
class _Outputs:
    """What all members answered, and what each of them says alone."""

    bits: tuple[Bits, ...]  # m arrays (n, c), memory-mapped
    confidence: NDArray[np.float32]  # (m, n) largest probability
    right: NDArray[np.bool_]  # (m, n)
    labels: NDArray[np.int64]  # (n,)


class Evaluator:
    """Error and mean cost per sample of cascades, equal to `encas.cascade.run_cascade` to the sample.

    The first stage is looked up; the later ones are computed for the samples that get there.
    """

    def __init__(self, space: Space, outputs: _Outputs, costs: NDArray[np.float64], workers: int) -> None:
        """Use `open`."""
        self.space = space
        self.costs = costs
        self.n = len(outputs.labels)
        self.workers = workers
        self._outputs = outputs

    @classmethod
    def open(
        cls,
        pool: Pool,
        split: str,
        members: Sequence[Member],
        costs: NDArray[np.float64],
        *,
        max_stages: int,
        workers: int = 1,
    ) -> "Evaluator":
        """Read and check what the members answered on a split.

        Args:
            pool: Its files must stay as they are while the evaluator is used.
            split: The labelled samples.
            members: Member i is gene value i + 1.
            costs: (m,) cost of one sample for each member.
            max_stages: Length of the longest cascade.
            workers: Threads; the results do not depend on their number.

        Raises:
            InvalidInput: A member has no outputs on this split, or they are no probabilities.
        """
        labels = pool.labels(split)
        bits, confidence, right = [], [], []
        for member in members:
            probs = pool.probs(member.name, split)
            check_probs(probs, len(labels), pool.n_classes, f"outputs of '{member.name}' on '{split}'")
            bits.append(np.asarray(probs).view(np.uint16))
            confidence.append(probs.max(axis=1).astype(np.float32))
            right.append(probs.argmax(axis=1) == labels)
        outputs = _Outputs(tuple(bits), np.stack(confidence), np.stack(right), labels)
        return cls(Space(len(members), max_stages), outputs, np.asarray(costs, np.float64), workers)

    def objectives(self, genomes: NDArray[Any]) -> NDArray[np.float64]:
        """(p, 2): error in [0, 1] and mean cost per sample of (p, g) genomes.

        A genome without members gets the worst there can be: error 1 and the cost of `max_stages` times the
        dearest member.
        """
        counts = self.counts(genomes)
        members, _ = self.space.stages(genomes)
        cost = (np.where(members >= 0, self.costs[members], 0) * counts.reached).sum(axis=1) / self.n
        out = np.column_stack([1 - counts.right / self.n, cost])
        out[members[:, 0] < 0] = 1.0, self.space.max_stages * self.costs.max()
        return out

    def counts(self, genomes: NDArray[Any]) -> Counts:
        """Count right answers and runs of every stage."""
        members, thresholds = self.space.stages(genomes)
        counts = Counts(np.zeros(len(members), np.int64), np.zeros(members.shape, np.int64))
        shares = [
            rows for rows in np.array_split(np.flatnonzero(members[:, 0] >= 0), self.workers) if len(rows)
        ]
        if len(shares) == 1:
            self._count(shares[0], members, thresholds, counts)
        elif shares:
            with ThreadPoolExecutor(len(shares)) as threads:
                jobs = [threads.submit(self._count, rows, members, thresholds, counts) for rows in shares]
                for job in jobs:
                    job.result()
        return counts

    def _count(
        self,
        genomes: NDArray[np.intp],
        members: NDArray[np.intp],
        thresholds: NDArray[np.intp],
        counts: Counts,
    ) -> None:
        """Fill in some genomes' rows of the counts."""
        out, limits = self._outputs, THRESHOLDS.astype(np.float32)
        rows = np.empty(self.n, np.intp)
        total = np.empty(out.bits[0].shape, np.float32)
        for genome in genomes:
            stages = members[genome][members[genome] >= 0]
            n_rows, n_right = self.n, 0
            for j, member in enumerate(stages):
                counts.reached[genome, j] = n_rows
                last = j == len(stages) - 1
                # No confidence exceeds 1 by more than rounding, none is below 0.
                limit = np.float32(-1) if last else limits[thresholds[genome, j]]
                if j == 0:
                    n_rows, right = _first_stage(out.confidence[member], out.right[member], limit, rows)
                else:
                    before = out.bits[stages[0]] if j == 1 else None
                    n_rows, right = _later_stage(
                        out.bits[member], before, _HALVES, out.labels, j + 1, limit, rows[:n_rows], total
                    )
                n_right += right
                if n_rows == 0:
                    break
            counts.right[genome] = n_right


@njit(cache=True, nogil=True)
def _first_stage(
    confidence: NDArray[np.float32], right: NDArray[np.bool_], limit: np.float32, rows: NDArray[np.intp]
) -> tuple[int, int]:
    """Let the confident samples leave, and write the others to the front of `rows`.

    Returns:
        How many stay, and how many leave with the right answer.
    """
    n_left, n_right = 0, 0
    for i in range(len(confidence)):
        if confidence[i] > limit:
            n_right += right[i]
        else:
            rows[n_left] = i
            n_left += 1
    return n_left, n_right


@njit(cache=True, nogil=True)
def _later_stage(
    bits: Bits,
    before: Bits | None,
    halves: NDArray[np.float32],
    labels: NDArray[np.int64],
    used: int,
    limit: np.float32,
    rows: NDArray[np.intp],
    total: NDArray[np.float32],
) -> tuple[int, int]:
    """Add a member's probabilities to the sums of the active samples, and let the confident ones leave.

    Args:
        bits: (n, c) float16 of this member.
        before: (n, c) of the first member, when this is the second stage: its sums are not in `total` yet.
        halves: float32 of every float16.
        labels: (n,) right classes.
        used: Members so far, this one included.
        limit: Who is above it leaves.
        rows: Active samples; those that stay are moved to the front.
        total: (n, c) sums of the stages so far.

    Returns:
        How many stay, and how many leave with the right answer.
    """
    n_left, n_right = 0, 0
    divisor = np.float32(used)
    for i in rows:
        best, answer = np.float32(-1), 0
        for k in range(bits.shape[1]):
            if before is None:
                value = total[i, k] + halves[bits[i, k]]
            else:
                value = halves[before[i, k]] + halves[bits[i, k]]
            total[i, k] = value
            mean = value / divisor
            if mean > best:
                best, answer = mean, k
        if best > limit:
            n_right += answer == labels[i]
        else:
            rows[n_left] = i
            n_left += 1
    return n_left, n_right
