"""What running a member costs: multiply-accumulates, or time measured on one machine."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput
from encas.pool import Latency, Member

Kind = Literal["macs", "latency"]
Unit = Literal["MACs", "s"]
_Setting = tuple[str, str, str, int]  # machine, provider, precision, batch


@dataclass(frozen=True)
class Objective:
    """The cost that a search minimises beside the error, per sample."""

    kind: Kind
    provider: str | None = None  # None: the only one that was measured
    batch: int | None = None
    machine: str | None = None  # part of its name

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Read `macs` (or `flops`), `latency`, `latency:cpu`, `latency:cpu:8` or `latency:cpu:8:EPYC`.

        Raises:
            InvalidInput: Anything else.
        """
        if text in ("macs", "flops"):
            return cls("macs")
        head, provider, batch, machine = (*text.split(":", 3), "", "", "")[:4]
        if head != "latency" or not re.fullmatch("([1-9][0-9]*)?", batch):
            raise InvalidInput(
                f"objective '{text}': must be macs, latency, latency:PROVIDER, latency:PROVIDER:BATCH or "
                "latency:PROVIDER:BATCH:MACHINE"
            )
        return cls("latency", provider or None, int(batch) if batch else None, machine or None)

    def __str__(self) -> str:
        """Write what `parse` reads."""
        if self.kind == "macs":
            return "macs"
        batch = "" if self.batch is None else str(self.batch)
        parts = ["latency", self.provider or "", batch, self.machine or ""]
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
    setting = _only(
        set.intersection(*({_setting(e) for e in found} for found in fitting.values())), objective
    )
    chosen = [next(e for e in fitting[member.name] if _setting(e) == setting) for member in members]
    return np.array([entry.latency_s / entry.batch for entry in chosen])


def _only(settings: set[_Setting], objective: Objective) -> _Setting:
    """Return the setting that is meant: of one machine, provider and precision, the smallest batch."""
    exact = {setting for setting in settings if setting[0] == objective.machine}
    settings = exact or settings
    machine, provider, _, batch = min(
        settings, key=lambda setting: (setting[3], setting), default=("", "", "", 0)
    )
    if len({setting[:3] for setting in settings}) == 1:
        return next(setting for setting in settings if setting[3] == batch)
    if not settings:
        raise InvalidInput(
            f"objective '{objective}': no machine, provider and batch size was measured for all members; "
            "measure them again: encas pool measure POOL"
        )
    found = ", ".join(f"{p}:{b} on {m} ({q})" for m, p, q, b in sorted(settings))
    raise InvalidInput(
        f"objective '{objective}': times must come from one machine, provider and precision; found {found}; "
        f"name one, as in 'latency:{provider}:{batch}:{machine}'"
    )


def _fits(entry: Latency, objective: Objective) -> bool:
    return (
        objective.provider in (None, entry.provider)
        and objective.batch in (None, entry.batch)
        and (objective.machine or "") in entry.machine
    )


def _setting(entry: Latency) -> _Setting:
    return (entry.machine, entry.provider, entry.precision, entry.batch)
