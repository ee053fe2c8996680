"""Timing calls in turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encas.measurement import Timing

_GROUPS = 5  # of rounds, whose medians are compared


@dataclass(frozen=True)
class Stopwatch:
    """How often calls are repeated, and the clock that times them."""

    warm_up: int = 3
    min_repeats: int = 5
    max_repeats: int = 50
    budget_s: float = 1.0  # for each call; no further round begins once it is spent
    clock: Callable[[], float] = time.perf_counter

    def time(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
        """Time several calls in turns, so that a machine that slows down slows all of them alike."""

        def timed(call: Callable[[], object]) -> Callable[[], tuple[float]]:
            def run() -> tuple[float]:
                start_s = self.clock()
                call()
                return (self.clock() - start_s,)

            return run

        found = self.parts({name: timed(call) for name, call in calls.items()})
        return {name: timing(taken_s[:, 0]) for name, taken_s in found.items()}

    def parts(self, calls: Mapping[str, Callable[[], Sequence[float]]]) -> dict[str, NDArray[np.float64]]:
        """Make several calls in turns that time their parts themselves.

        Returns:
            (r, parts) seconds of each call in each round.
        """
        for call in calls.values():
            for _ in range(self.warm_up):
                call()
        taken_s: dict[str, list[Sequence[float]]] = {name: [] for name in calls}
        begun_s = self.clock()
        for n_rounds in range(self.max_repeats):
            if n_rounds >= self.min_repeats and self.clock() - begun_s > self.budget_s * len(calls):
                break
            for name, call in calls.items():
                taken_s[name].append(call())
        return {name: np.array(rows) for name, rows in taken_s.items()}


DEFAULT_STOPWATCH = Stopwatch()


def timing(taken_s: NDArray[np.float64]) -> Timing:
    """Summarise the rounds of one call."""
    # A clock may be too coarse for a tiny network; zero would read as "costs nothing".
    median, p95 = (max(float(value), 1e-9) for value in np.percentile(taken_s, (50, 95)))
    medians = [np.median(group) for group in np.array_split(taken_s, min(_GROUPS, len(taken_s)))]
    noise = float(max(medians) - min(medians)) / median
    return Timing(median=median, p95=p95, n=len(taken_s), noise=noise)
