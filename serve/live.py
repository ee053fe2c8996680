"""What each model did in the last minute, for people who look at it."""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encas.files import FileModel
from encas.serve.refusals import OK
from encas.serve.service import Observer, Record

WINDOW_S = 60
# Latencies are counted in bins of 5 %, from 0.1 ms on.
_LEAST_S, _FACTOR, _BINS = 1e-4, 1.05, 300


class ExitCount(FileModel):
    """Samples that left after a stage of a gear."""

    gear: int
    stage: int
    n: int


class Recent(FileModel):
    """One model in the last minute."""

    seconds: int  # that were looked at
    answered: int  # requests
    refused: int  # because there were too many
    failed: int  # for any other reason
    samples: int
    macs: float | None  # mean per sample
    p50_s: float | None
    p99_s: float | None
    exits: tuple[ExitCount, ...]


@dataclass
class _Second:
    at: int
    answered: int = 0
    refused: int = 0
    failed: int = 0
    macs: int = 0
    latencies: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    exits: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))


class Live(Observer):
    """Counts by the second, in the event loop; no more than a minute is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing."""
        self._clock, self._start_s = clock, clock()
        self._models: dict[str, deque[_Second]] = {}

    def finished(self, record: Record) -> None:
        """Count a request."""
        if not record.model:
            return
        seconds = self._models.setdefault(record.model, deque(maxlen=WINDOW_S + 1))
        now = int(self._clock())
        if not seconds or seconds[-1].at != now:
            seconds.append(_Second(now))
        second = seconds[-1]
        if record.kind is not OK:
            refused = record.kind.reason == "queue_full"
            second.refused += refused
            second.failed += not refused
            return
        second.answered += 1
        second.macs += record.macs
        place = np.log(max(record.total_s, _LEAST_S) / _LEAST_S) / np.log(_FACTOR)
        second.latencies[min(int(place), _BINS - 1)] += 1
        for stage in record.exit_stages:
            second.exits[record.gear, stage] += 1

    def of(self, model: str) -> Recent:
        """Say what a model did in the last minute, or since the start."""
        now = self._clock()
        seconds = [one for one in self._models.get(model, ()) if one.at > now - WINDOW_S]
        exits: defaultdict[tuple[int, int], int] = defaultdict(int)
        for one in seconds:
            for place, n in one.exits.items():
                exits[place] += n
        n_samples = sum(exits.values())
        latencies = sum((one.latencies for one in seconds), np.zeros(_BINS, np.int64))
        return Recent(
            seconds=max(1, min(WINDOW_S, int(now - self._start_s))),
            answered=sum(one.answered for one in seconds),
            refused=sum(one.refused for one in seconds),
            failed=sum(one.failed for one in seconds),
            samples=n_samples,
            macs=sum(one.macs for one in seconds) / n_samples if n_samples else None,
            p50_s=_quantile(latencies, 0.5),
            p99_s=_quantile(latencies, 0.99),
            exits=tuple(
                ExitCount(gear=gear, stage=stage, n=exits[gear, stage]) for gear, stage in sorted(exits)
            ),
        )


def _quantile(counts: NDArray[np.int64], q: float) -> float | None:
    """Return the middle of the bin that holds it, None of nothing."""
    total = int(counts.sum())
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(counts), q * total))
    return float(_LEAST_S * _FACTOR ** (min(place, _BINS - 1) + 0.5))
