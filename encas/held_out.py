"""The part of a split that is kept out of a search, to report on."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Searched
from encas.errors import InvalidInput
from encas.pool import Pool

_MOST_MEMBERS = 16  # whose answers say how hard a sample is


@dataclass(frozen=True)
class HeldOut:
    """Rows of a split to report on; the others are to be searched on.

    Easy and hard samples are shared out alike: by how many members answer a sample rightly, and by chance
    among equally hard ones. So what is counted on one part can be compared with what is counted on the
    other, and on the whole split. The rows depend on the split and its members alone: searches with other
    seeds, or by another algorithm, report on the same ones.
    """

    searched: Searched
    rows: NDArray[np.intp]  # (n,) rising
    rest: NDArray[np.intp]  # rising
    easiness: NDArray[np.intp]  # (n,) how many members are right

    @classmethod
    def of(cls, pool: Pool, split: str, fraction: float) -> "HeldOut":
        """Choose a fraction of a split; 0 keeps nothing out.

        Raises:
            InvalidInput: The fraction leaves no sample for one of the two parts.
        """
        n = pool.split(split).n
        if fraction == 0:
            none = np.empty(0, np.intp)
            return cls(Searched(split=split), none, np.arange(n), none)
        if not (0 < fraction < 1 and 0 < round(fraction * n) < n):
            raise InvalidInput(
                f"report fraction {fraction:g}: of the {n} samples of split '{split}' some must be left to "
                "search on and some to report on; 0 searches on all"
            )
        n_report = round(fraction * n)
        easiness = _easiness(pool, split)
        order = np.lexsort((np.random.default_rng(0).random(n), easiness))
        # The middles of n_report stretches of equal length.
        places = ((2 * np.arange(n_report) + 1) * n) // (2 * n_report)
        rows = np.sort(order[places])
        searched = Searched(split=split, report_fraction=fraction, report_sha256=_digest(rows))
        return cls(searched, rows, np.setdiff1d(np.arange(n), rows), easiness[rows])

    @classmethod
    def again(cls, pool: Pool, searched: Searched) -> "HeldOut":
        """Find the rows again that were kept out of a search.

        Raises:
            InvalidInput: The split has other members now, whose answers choose other rows.
        """
        found = cls.of(pool, searched.split, searched.report_fraction)
        if found.searched.report_sha256 != searched.report_sha256:
            raise InvalidInput(
                f"{pool.path}: has other members or outputs on '{searched.split}' than when it was searched, "
                "so nobody knows which samples were kept out then; use another split"
            )
        return found

    def worth(self, is_right: NDArray[np.bool_]) -> float:
        """Say how many samples taken at random would tell as much of a cascade's accuracy.

        More than there are: how many of the samples are hard is not left to the chance of the few that were
        kept out, but only to that of the whole split.

        Args:
            is_right: (n,) what the cascade answers rightly.
        """
        n, n_all = len(self.rows), len(self.rows) + len(self.rest)
        if is_right.all() or not is_right.any() or np.ptp(self.easiness) == 0:
            return n
        # What share of the variance is explained by how hard the samples are.
        explained = float(np.corrcoef(is_right, self.easiness)[0, 1]) ** 2
        return 1 / ((1 - explained) / n + explained / n_all)


def _easiness(pool: Pool, split: str) -> NDArray[np.intp]:
    """(n,) how many members answer rightly, of at most so many from the cheapest to the dearest."""
    members = sorted(pool.members_with(split), key=lambda member: (member.macs, member.name))
    some = {round(i) for i in np.linspace(0, len(members) - 1, min(len(members), _MOST_MEMBERS))}
    labels = pool.labels(split)
    total = np.zeros(len(labels), np.intp)
    for i in sorted(some):
        total += pool.probs(members[i].name, split).argmax(axis=1) == labels
    return total


def _digest(rows: NDArray[Any]) -> str:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
