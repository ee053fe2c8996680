"""Whether the world has changed: tests that may be looked at after every sample, and seldom alarm falsely.

Nothing here knows of requests; see `encas.serve.alarms`.
"""

import numpy as np
from numpy.typing import NDArray

WINDOW = 2000  # samples after which a test begins anew
_BLOCK = 50  # samples between two changes of the bets
_BINS = 10  # of ranks
# Shares of the capital that are bet on a loss.
_BETS = 0.5 ** np.arange(1, 8)


class DriftTest:
    """Tests whether samples are of the kind that the reference was counted on; bets against it.

    A sample's rank among the reference and the samples before it, ties broken at random, is uniform and
    independent of earlier ranks if all of them are exchangeable (conformal p-values). Bets on the ranks' bins
    then win nothing in the mean, whatever they are, and the chance that the capital ever reaches 1 / rate
    within a window is at most `rate` (Ville's inequality). What is bet is what the ranks have been so far;
    the capital is shared among gamblers who begin one block after the other, so that a late change is found.
    After a window all begins anew, from the reference.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, chapter 8; Vovk et al.,
    "Retrain or not retrain", COPA 2021, arXiv:2102.10439.
    """

    def __init__(self, counts: NDArray[np.int64], rng: np.random.Generator, rate: float = 0.001) -> None:
        """Begin a window.

        Args:
            counts: (b,) samples of the reference at each place, in the order of places.
            rng: Breaks ties.
            rate: Most false alarms per window.
        """
        self.alarm = False  # since the test last raised it, until a window passes without
        self.n_alarms = 0
        self._reference, self._rng, self._rate = np.asarray(counts, np.int64), rng, rate
        self._waiting: list[int] = []
        self._begin()

    def _begin(self) -> None:
        n_gamblers = WINDOW // _BLOCK
        self._bag = self._reference.copy()
        self._log_capital = np.zeros(n_gamblers)
        self._seen = np.ones((n_gamblers, _BINS))
        self._block = 0

    @property
    def evidence(self) -> float:
        """Logarithm, to base 10, of the capital: 3 is once in a thousand windows without a change."""
        most = self._log_capital.max()
        return float((most + np.log(np.mean(np.exp(self._log_capital - most)))) / np.log(10))

    def add(self, places: NDArray[np.intp]) -> bool:
        """Take samples by their places; True if they raise the alarm."""
        self._waiting += places.tolist()
        raised = False
        while len(self._waiting) >= _BLOCK:
            block, self._waiting = self._waiting[:_BLOCK], self._waiting[_BLOCK:]
            raised |= self._bet(np.array(block, np.intp))
        return raised

    def _bet(self, places: NDArray[np.intp]) -> bool:
        bins = (self._ranks(places) * _BINS).astype(np.intp)
        counts = np.bincount(bins, minlength=_BINS)
        started = slice(0, self._block + 1)
        seen = self._seen[started]
        odds = _BINS * seen / seen.sum(axis=1, keepdims=True)
        self._log_capital[started] += np.log(odds) @ counts
        self._seen[started] += counts
        self._block += 1
        raised = bool(self.evidence >= -np.log10(self._rate))
        if raised:
            self.alarm = True
            self.n_alarms += 1
            self._begin()
        elif self._block == WINDOW // _BLOCK:
            self.alarm = False
            self._begin()
        return raised

    def _ranks(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """(m,) in [0, 1): shares of what lies above each sample, of those before it and itself."""
        above = np.concatenate([np.cumsum(self._bag[::-1])[::-1][1:], [0]])
        before = np.tri(len(places), k=-1)
        n_above = above[places] + ((places[None, :] > places[:, None]) * before).sum(axis=1)
        n_equal = self._bag[places] + ((places[None, :] == places[:, None]) * before).sum(axis=1) + 1
        total = self._bag.sum() + np.arange(len(places)) + 1
        self._bag += np.bincount(places, minlength=len(self._bag))
        ranks = (n_above + self._rng.random(len(places)) * n_equal) / total
        return np.asarray(np.minimum(ranks, np.nextafter(1.0, 0.0)), np.float64)


class RiskTest:
    """Tests whether losses come more often than a certificate allows, with the same guarantee per window.

    Source: betting against a mean, Waudby-Smith and Ramdas, JRSS B 2024, arXiv:2010.09686.
    """

    def __init__(self, risk: float, rate: float = 0.001) -> None:
        """Begin a window.

        Args:
            risk: Share of lost samples that is allowed, in (0, 1).
            rate: Most false alarms per window.
        """
        self.alarm = False
        self._risk, self._rate = risk, rate
        self._begin()

    def _begin(self) -> None:
        self._log_capital, self._n = np.zeros(len(_BETS)), 0

    def add(self, lost: bool) -> bool:
        """Take a sample; True if it raises the alarm."""
        self._log_capital += np.log1p(_BETS * (1 - self._risk) / self._risk if lost else -_BETS)
        self._n += 1
        most = self._log_capital.max()
        raised = bool(most + np.log(np.mean(np.exp(self._log_capital - most))) >= -np.log(self._rate))
        if raised or self._n == WINDOW:
            self.alarm = raised
            self._begin()
        return raised
