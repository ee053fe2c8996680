"""Corrections from measured times: a ridge regression on the parts that predictions are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encas.latency import MemberTime, parts_of
from encas.refinement import Corrections, Factors
from encas.search.device.cascades import Run

# How far a member's own factor may lie from that of all, against how far a measured time is off by chance:
# about 10 % against 2 %. The weight of the one in squares of the other.
_RIDGE = (0.02 / 0.1) ** 2
_SMALLEST, _LARGEST = 0.2, 5.0


@dataclass(frozen=True)
class Sample:
    """A cascade that was run: its predicted parts, and what it took; all means over batches, in seconds."""

    members: tuple[str, ...]  # (k,) of the stages
    run_s: tuple[float, ...]  # (k,)
    rest_s: float
    gain_s: float
    measured_s: float

    @classmethod
    def of(cls, members: tuple[str, ...], times: Sequence[MemberTime], run: Run, batch: int) -> "Sample":
        """Predict, uncorrected, the parts of the very batches that were run."""
        parts = parts_of(times, run.survivors, batch)
        return cls(
            members=members,
            run_s=tuple(parts.run_s.mean(axis=0).tolist()),
            rest_s=float(parts.rest_s.mean()),
            gain_s=float(parts.gain_s.mean()),
            measured_s=float(run.batches_s.mean()),
        )

    def predicted_s(self, corrections: Corrections | None) -> float:
        """What the cost model says of these batches."""
        if corrections is None:
            return sum(self.run_s) + self.rest_s - self.gain_s
        factors = [corrections.of(member) for member in self.members]
        run_s = sum(
            part * (factor.later if stage else factor.first)
            for stage, (part, factor) in enumerate(zip(self.run_s, factors, strict=True))
        )
        return run_s + corrections.rest * self.rest_s - self.gain_s


def fit(samples: Sequence[Sample]) -> Corrections:
    """Find the factors that make predictions agree with measured times, as like each other as can be.

    One factor is common to all, and each member's run at the first stage, each at later ones, and the rest
    have a deviation from it that costs as much as an error of the prediction. Errors count as shares of the
    measured time.
    """
    keys = sorted({(member, stage > 0) for s in samples for stage, member in enumerate(s.members)})
    column = {key: 1 + j for j, key in enumerate(keys)}
    rest = 1 + len(keys)
    rows = np.zeros((len(samples), rest + 1))
    for row, sample in zip(rows, samples, strict=True):
        for stage, (member, part_s) in enumerate(zip(sample.members, sample.run_s, strict=True)):
            row[column[member, stage > 0]] += part_s
        row[rest] = sample.rest_s
        row[0] = sum(sample.run_s) + sample.rest_s
    rows /= np.array([sample.measured_s for sample in samples])[:, None]
    wanted = np.array([1 + sample.gain_s / sample.measured_s for sample in samples])
    penalty = np.sqrt(_RIDGE) * np.eye(rest + 1)[1:]
    system = np.concatenate([rows, penalty]), np.concatenate([wanted, np.zeros(rest)])
    found = np.linalg.lstsq(*system)[0]
    factors = np.clip(found[0] + found[1:], _SMALLEST, _LARGEST)
    common = float(np.clip(found[0], _SMALLEST, _LARGEST))
    own = {key: float(factors[at - 1]) for key, at in column.items()}
    return Corrections(
        members={
            name: Factors(first=own.get((name, False), common), later=own.get((name, True), common))
            for name in sorted({member for member, _ in keys})
        },
        others=common,
        rest=float(factors[rest - 1]),
    )
