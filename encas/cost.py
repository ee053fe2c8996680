"""What running a member costs: multiply-accumulates, or time measured on one machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput
from encas.pool import Latency, Member

Kind = Literal["macs", "latency"]
Unit = Literal["MACs", "s"]


@dataclass(frozen=True)
class Objective:
    """The cost that a search minimises beside the error, per sample."""

    kind: Kind
    provider: str | None = None  # None: the only one that was measured
    batch: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Read `macs` (or `flops`), `latency`, `latency:cpu` or `latency:cpu:8`.

        Raises:
            InvalidInput: Anything else.
        """
        head, *rest = text.split(":")
        if head in ("macs", "flops") and not rest:
            return cls("macs")
        if head == "latency" and len(rest) <= 2:
            provider = rest[0] if rest and rest[0] else None
            if len(rest) < 2:
                return cls("latency", provider)
            if rest[1].isdigit() and int(rest[1]) > 0:
                return cls("latency", provider, int(rest[1]))
        raise InvalidInput(
            f"objective '{text}': must be macs, latency, latency:PROVIDER or latency:PROVIDER:BATCH"
        )

    def __str__(self) -> str:
        """Write what `parse` reads."""
        if self.kind == "macs":
            return "macs"
        parts = ["latency", self.provider or "", "" if self.batch is None else str(self.batch)]
        return ":".join(parts).rstrip(":")

    @property
    def unit(self) -> Unit:
        """Unit of the costs that `member_costs` returns."""
        return "MACs" if self.kind == "macs" else "s"


def member_costs(members: Sequence[Member], objective: Objective) -> NDArray[np.float64]:
    """(m,) cost of one sample: MACs, or seconds of the measured batch divided by its size.

    Raises:
        InvalidInput: A member was not measured, or measurements of several machines would be mixed.
    """
    if objective.kind == "macs":
        return np.array([member.macs for member in members], np.float64)
    fitting = {member.name: [e for e in member.latency if _fits(e, objective)] for member in members}
    missing = [name for name, entries in fitting.items() if not entries]
    if missing:
        raise InvalidInput(
            f"objective '{objective}': no such latency is recorded for {missing[0]}"
            + (f" and {len(missing) - 1} more members" if len(missing) > 1 else "")
            + "; measure the pool first: encas pool measure POOL"
        )
    settings = set.intersection(*({_setting(e) for e in entries} for entries in fitting.values()))
    settings = {s for s in settings if s[3] == min(t[3] for t in settings)}  # the smallest batch if not told
    if len(settings) != 1:
        found = ", ".join(f"{p}:{b} on {m} ({q})" for m, p, q, b in sorted(settings)) or "nothing in common"
        raise InvalidInput(
            f"objective '{objective}': the members' measurements must come from one machine, provider and "
            f"precision; found {found}; name one, as in latency:cpu:1, or measure again"
        )
    setting = settings.pop()
    chosen = [next(e for e in fitting[member.name] if _setting(e) == setting) for member in members]
    return np.array([entry.latency_s / entry.batch for entry in chosen])


def _fits(entry: Latency, objective: Objective) -> bool:
    return objective.provider in (None, entry.provider) and objective.batch in (None, entry.batch)


def _setting(entry: Latency) -> tuple[str, str, str, int]:
    return (entry.machine, entry.provider, entry.precision, entry.batch)
