"""Error and cost of many cascades on a pool's recorded outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade, MemberProbs, run_cascade
from encas.pool import Member, Pool, check_probs
from encas.search.genome import Space


@dataclass(frozen=True)
class Counts:
    """What happened to the samples, for p cascades of at most k stages."""

    right: NDArray[np.int64]  # (p,) samples answered rightly
    reached: NDArray[np.int64]  # (p, k) samples that each stage was run for


class Evaluator:
    """Error and mean cost per sample of cascades, equal to `encas.cascade.run_cascade` to the sample."""

    def __init__(
        self,
        space: Space,
        probs: Mapping[str, NDArray[np.float16]],
        labels: NDArray[np.int64],
        costs: NDArray[np.float64],
        workers: int,
    ) -> None:
        """Use `open`."""
        self.space = space
        self.costs = costs
        self.n = len(labels)
        self.workers = workers
        self._probs = probs
        self._labels = labels

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
        probs = {member.name: pool.probs(member.name, split) for member in members}
        labels = pool.labels(split)
        for name, recorded in probs.items():
            check_probs(recorded, len(labels), pool.n_classes, f"outputs of '{name}' on '{split}'")
        return cls(Space(len(members), max_stages), probs, labels, np.asarray(costs, np.float64), workers)

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
        members, _ = self.space.stages(genomes)
        right = np.zeros(len(members), np.int64)
        reached = np.zeros(members.shape, np.int64)
        for row in np.flatnonzero(members[:, 0] >= 0):
            cascade = self.space.cascade(genomes[row], tuple(self._probs))
            answers = run_cascade(cascade, self._reader(cascade), self.n, [0] * len(cascade.stages))
            right[row] = np.sum(answers.label == self._labels)
            reached[row, : len(cascade.stages)] = [
                np.sum(answers.exit_stage >= stage) for stage in range(len(cascade.stages))
            ]
        return Counts(right, reached)

    def _reader(self, cascade: Cascade) -> MemberProbs:
        outputs = [self._probs[name] for name in cascade.member_names]
        return lambda stage, rows: outputs[stage][rows]
