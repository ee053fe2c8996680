"""GreedyCascade: cascades that are built stage by stage instead of searched.

Source: Streeter, "Approximation Algorithms for Cascading Prediction Models", ICML 2018 (PMLR 80).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from encas.cascade import Cascade, Stage, as_recorded, confidence_of
from encas.cost import CostModel
from encas.pool import Pool
from encas.search.between import between
from encas.search.drive import Progress
from encas.search.found import Found

MULTIPLIERS = (1.00, 0.99, 0.98, 0.97, 0.96, 0.95)


@dataclass(frozen=True)
class Outputs:
    """What m members say of n samples, and how sure each is of itself."""

    gap: NDArray[np.float32]  # (m, n) between the two largest logits
    is_right: NDArray[np.bool_]  # (m, n)
    order: NDArray[np.intp]  # (m, n) the samples by rising gap

    @classmethod
    def of(cls, gap: NDArray[np.float32], is_right: NDArray[np.bool_]) -> "Outputs":
        """Sort by gap."""
        return cls(gap, is_right, np.argsort(gap, axis=1, kind="stable"))

    @classmethod
    def recorded(cls, pool: Pool, split: str, names: Sequence[str], rows: NDArray[np.intp]) -> "Outputs":
        """Read some rows of a split."""
        labels = pool.labels(split)[rows]
        gap, is_right = np.empty((len(names), len(rows)), np.float32), np.empty((len(names), len(rows)), bool)
        for i, name in enumerate(names):
            probs = as_recorded(pool.probs(name, split)[rows])
            gap[i] = confidence_of(probs, "logit-gap")
            is_right[i] = probs.argmax(axis=1) == labels
        return cls.of(gap, is_right)


@dataclass
class Greedy:
    """Builds one cascade for every reference member and every share of its accuracy that must be kept.

    As long as samples are left: of every member that is not used yet, the lowest threshold of its own logit
    gap is found above which it is, on the samples left, as accurate as that share of the reference's accuracy
    there. The member that answers most samples per cost in this way is the next stage. Where no member will
    do, and at the last stage that is allowed, the stage answers all that is left.

    Attributes:
        outputs: Of the members.
        names: (m,) of them.
        costs: Of them.
        max_stages: Length of the longest cascade; the paper knows no limit.
        budget: How often a member may be looked through for a threshold, and a cascade be counted.
    """

    outputs: Outputs
    names: Sequence[str]
    costs: CostModel
    max_stages: int
    budget: int
    spent: int = field(default=0, init=False)

    def run(self, progress: Progress | None = None) -> list[Found]:
        """Build the cascades that the budget allows."""
        built: list[Found] = []
        for share in MULTIPLIERS:
            for reference in range(len(self.names)):
                before = self.spent
                found = self._build(share, reference)
                built += [] if found is None else [found]
                if progress is not None:
                    progress(self.spent - before, f"{len(built)} cascades")
                if self.spent >= self.budget:
                    return built
        return built

    def _build(self, share: float, reference: int) -> Found | None:
        """Build a cascade; None: no member will do, or the budget does not suffice."""
        outputs, n = self.outputs, self.outputs.gap.shape[1]
        left, used = np.ones(n, np.bool_), np.zeros(len(self.names), np.bool_)
        stages: list[tuple[int, float]] = []
        reached: list[int] = []
        right = 0
        while left.any() and len(stages) < self.max_stages:
            n_unused = int((~used).sum())
            if self.spent + n_unused >= self.budget:
                self.spent = self.budget
                return None
            self.spent += n_unused
            is_last = len(stages) == self.max_stages - 1
            sizes, lows, highs = _thresholds(
                outputs.order, outputs.gap, outputs.is_right, left, used, reference, share, is_last
            )
            member = self._best(sizes)
            if member < 0:
                break
            stages.append((member, between(float(lows[member]), float(highs[member]))))
            reached.append(int(left.sum()))
            used[member] = True
            leaves = left & (outputs.gap[member] >= highs[member])
            right += int(outputs.is_right[member, leaves].sum())
            left &= ~leaves
        if not stages:
            return None
        self.spent += 1
        right += int(outputs.is_right[stages[-1][0], left].sum())
        return self._described(stages, reached, right, n)

    def _best(self, sizes: NDArray[np.int64]) -> int:
        """Return the member that answers most samples per cost, or -1."""
        if sizes.max(initial=0) == 0:
            return -1
        free = self.costs.singles == 0
        if (sizes[free] > 0).any():
            return int(np.argmax(np.where(free, sizes, 0)))
        return int(np.argmax(sizes / np.where(free, np.inf, self.costs.singles)))

    def _described(
        self, stages: Sequence[tuple[int, float]], reached: Sequence[int], right: int, n: int
    ) -> Found:
        members, seen = np.full((1, self.max_stages), -1), np.zeros((1, self.max_stages), np.int64)
        members[0, : len(stages)] = [member for member, _ in stages]
        seen[0, : len(stages)] = reached
        *before, (last, _) = stages
        steps = [Stage(member=self.names[member], threshold=threshold) for member, threshold in before]
        cascade = Cascade(
            stages=(*steps, Stage(member=self.names[last])), combine="last", confidence="logit-gap"
        )
        cost = float(self.costs.mean(members, seen, n)[0])
        return Found(cascade, right, tuple(reached), 1 - right / n, cost)


@njit(cache=True, nogil=True)
def _thresholds(
    order: NDArray[np.intp],
    gap: NDArray[np.float32],
    is_right: NDArray[np.bool_],
    left: NDArray[np.bool_],
    used: NDArray[np.bool_],
    reference: int,
    share: float,
    takes_all: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Find the lowest threshold of every unused member that is accurate enough above it.

    Args:
        order: (m, n) samples by rising gap.
        gap: (m, n).
        is_right: (m, n).
        left: (n,) the samples that count.
        used: (m,).
        reference: The member to be compared with.
        share: Of its accuracy.
        takes_all: Look no further than at all that are left.

    Returns:
        (m,) how many samples are answered, 0 where no threshold will do; the largest gap among those that
        are not; the smallest among those that are.
    """
    m, n = gap.shape
    sizes = np.zeros(m, np.int64)
    lows, highs = np.zeros(m, np.float32), np.zeros(m, np.float32)
    n_left, n_reference = 0, 0
    for sample in range(n):
        if left[sample]:
            n_left += 1
            n_reference += is_right[reference, sample]
    for member in range(m):
        if used[member]:
            continue
        size, right, of_reference = n_left, 0, n_reference
        for sample in range(n):
            right += left[sample] and is_right[member, sample]
        low = np.float32(-1)
        for place in range(n):
            sample = order[member, place]
            if not left[sample]:
                continue
            if gap[member, sample] > low:  # the first of those with this gap
                if right > 0 and right >= share * of_reference:
                    sizes[member], lows[member], highs[member] = size, low, gap[member, sample]
                    break
                if takes_all and size < n_left:
                    break
                low = gap[member, sample]
            size -= 1
            right -= is_right[member, sample]
            of_reference -= is_right[reference, sample]
    return sizes, lows, highs
