"""How long a cascade takes on a machine, predicted from what its members took there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encas.pool import Latency
from encas.preprocess import Preprocess


@dataclass(frozen=True)
class Curve:
    """Time of one call by the number of samples in it."""

    sizes: NDArray[np.float64]  # (b,) rising, from 1
    times_s: NDArray[np.float64]  # (b,)

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> "Curve":
        """Take measured sizes and times.

        Between two sizes time grows linearly; beyond the largest as between the last two, below the smallest
        as between the first two, but never down to less than nothing. A single size scales in proportion.
        """
        points = sorted(points)
        (n, first_s) = points[0]
        if len(points) > 1:
            slope = (points[1][1] - first_s) / (points[1][0] - n)
            start_s = min(max(first_s - slope * n, 0.0), first_s)
        else:
            start_s = 0.0
        sizes, times_s = zip((0, start_s), *points, strict=True)
        return cls(np.array(sizes, np.float64), np.array(times_s, np.float64))

    def at(self, n: NDArray[np.intp]) -> NDArray[np.float64]:
        """Seconds for each number of samples; no call, no time."""
        n = np.asarray(n)
        inside = np.interp(n, self.sizes, self.times_s)
        last, before = self.sizes[-1], self.sizes[-2]
        slope = max(0.0, (self.times_s[-1] - self.times_s[-2]) / (last - before))
        return np.where(n > 0, inside + slope * np.maximum(n - last, 0), 0.0)

    @property
    def best_s(self) -> float:
        """Seconds per sample at the measured size that suits best."""
        return float((self.times_s[1:] / self.sizes[1:]).min())


@dataclass(frozen=True)
class MemberTime:
    """What one member takes: to run, and to have its images prepared."""

    run: Curve  # the session, and the executor around it
    prepare: Curve
    decode: Curve  # the same for all members
    preprocess: Preprocess | None  # members with the same one share the prepared images
    gain: (
        Curve  # saved where the batch before needed only this member, which the processor's caches still hold
    )

    @classmethod
    def of(cls, entries: Sequence[Latency], preprocess: Preprocess | None) -> "MemberTime":
        """Read what was measured on one machine, in one precision."""
        return cls(
            run=Curve.through([(e.batch, e.latency_s + e.overhead_s) for e in entries]),
            prepare=Curve.through([(e.batch, e.prepare_s) for e in entries]),
            decode=Curve.through([(e.batch, e.decode_s) for e in entries]),
            preprocess=preprocess,
            gain=Curve.through([(e.batch, e.gain_s) for e in entries]),
        )


def binomial(n: int, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r, n + 1) chances of k successes in n tries, for each of the rates in [0, 1]."""
    k = np.arange(n + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = k * np.log(rates)[:, None] + (n - k) * np.log1p(-rates)[:, None]
    # At the ends 0 * log(0) is meant to be nothing.
    logs = np.where(np.isnan(logs), 0.0, logs)
    return np.asarray(np.exp(ways + logs))


def batch_time_s(stages: Sequence[MemberTime], reached: Sequence[float], batch: int) -> float:
    """Mean time of a batch of independent samples: the definition that the search's tables must agree with.

    The batch before is one like it; if none of its samples went on, the first stage follows itself.

    Args:
        stages: (k,) in the order in which they run.
        reached: (k,) share of the samples that reach each stage.
        batch: Samples that arrive together. How many of them reach a stage is binomial.
    """
    goes_on = reached[1] if len(reached) > 1 else 0.0
    total_s, prepared = float(stages[0].decode.at(np.array(batch))), set[Preprocess | None]()
    total_s -= (1 - goes_on) ** batch * float(stages[0].gain.at(np.array(batch)))
    for stage, rate in zip(stages, reached, strict=True):
        for n in range(1, batch + 1):
            chance = math.comb(batch, n) * rate**n * (1 - rate) ** (batch - n)
            total_s += chance * float(stage.run.at(np.array(n)))
            if stage.preprocess not in prepared:
                total_s += chance * float(stage.prepare.at(np.array(n)))
        prepared.add(stage.preprocess)
    return total_s


@dataclass(frozen=True)
class Parts:
    """What the time of some batches, one after the other, is made of."""

    run_s: NDArray[np.float64]  # (b, k) of each stage
    rest_s: NDArray[np.float64]  # (b,) decoding and preparing
    gain_s: NDArray[np.float64]  # (b,) saved because the first stage follows itself


def parts_of(stages: Sequence[MemberTime], survivors: NDArray[np.intp], batch: int) -> Parts:
    """Predict the parts, given how many samples each stage was run for.

    Args:
        stages: (k,)
        survivors: (b, k) of each batch; the first follows one like the last.
        batch: Samples that arrive together.
    """
    rest_s, prepared = stages[0].decode.at(np.full(len(survivors), batch)), set[Preprocess | None]()
    for j, stage in enumerate(stages):
        if stage.preprocess not in prepared:
            rest_s = rest_s + stage.prepare.at(survivors[:, j])
        prepared.add(stage.preprocess)
    goes_on = survivors[:, 1] > 0 if len(stages) > 1 else np.zeros(len(survivors), np.bool_)
    gain_s = np.where(np.roll(~goes_on, 1), stages[0].gain.at(np.array(batch)), 0.0)
    return Parts(
        run_s=np.stack([stage.run.at(survivors[:, j]) for j, stage in enumerate(stages)], axis=1),
        rest_s=rest_s,
        gain_s=gain_s,
    )


@dataclass(frozen=True)
class Spread:
    """Time of a batch, over the batches that may arrive."""

    mean_s: float
    median_s: float
    p95_s: float


def spread_of(
    stages: Sequence[MemberTime],
    exit_stage: NDArray[np.intp],
    batch: int,
    rng: np.random.Generator,
    n_batches: int = 4000,
) -> Spread:
    """How the time of a batch varies because samples leave at different stages, without the members' noise.

    Args:
        stages: (k,)
        exit_stage: (n,) where recorded samples left.
        batch: Samples that arrive together, drawn from the recorded ones.
        rng: Draws them.
        n_batches: Batches drawn.
    """
    drawn = exit_stage[rng.integers(len(exit_stage), size=(n_batches, batch))]
    survivors = np.stack([(drawn >= j).sum(axis=1) for j in range(len(stages))], axis=1)
    parts = parts_of(stages, survivors, batch)
    total_s = parts.run_s.sum(axis=1) + parts.rest_s - parts.gain_s
    median_s, p95_s = np.percentile(total_s, (50, 95))
    return Spread(float(total_s.mean()), float(median_s), float(p95_s))
