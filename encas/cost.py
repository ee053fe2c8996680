"""What running a member costs: multiply-accumulates, or time measured on one machine."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput
from encas.latency import Curve, MemberTime, binomial
from encas.pool import Latency, Member
from encas.refinement import Corrections, Factors

Kind = Literal["macs", "latency", "throughput"]
Unit = Literal["MACs", "s"]
_Setting = tuple[str, str]  # machine, provider


class CostModel(Protocol):
    """What cascades cost, told from how many samples their stages see."""

    @property
    def singles(self) -> NDArray[np.float64]:
        """(m,) cost per sample of each member on its own."""

    def mean(self, members: NDArray[np.intp], reached: NDArray[np.int64], n: int) -> NDArray[np.float64]:
        """(p,) mean cost per sample.

        Args:
            members: (p, k) of each stage, -1 behind the last.
            reached: (p, k) samples that each stage was run for.
            n: Samples there are.
        """


@dataclass(frozen=True)
class PerSample:
    """Every sample that a stage sees costs the same, as MACs do."""

    singles: NDArray[np.float64]  # (m,)

    def mean(self, members: NDArray[np.intp], reached: NDArray[np.int64], n: int) -> NDArray[np.float64]:
        """See `CostModel`."""
        costs = np.concatenate([self.singles, [0.0]])[members]
        total: NDArray[np.float64] = (costs * reached).sum(axis=1) / n
        return total


@dataclass(frozen=True)
class Timed:
    """Seconds, looked up by how many of the n samples a stage sees.

    The tables hold seconds per sample of the whole: they were computed once for every number there can be, so
    that a search by time asks for no more than one by MACs. Where several stages prepare images in the same
    way, the first pays.
    """

    singles: NDArray[np.float64]  # (m,)
    decode_s: float  # of one sample
    first_s: NDArray[np.float64]  # (m + 1, n + 1) of a first stage; nothing for the last, which is no member
    run_s: NDArray[np.float64]  # (m + 1, n + 1) of later ones
    prepare_s: NDArray[np.float64]  # (m + 1, n + 1)
    specs: NDArray[np.intp]  # (m + 1,) equal for members that prepare images in the same way
    gain_s: NDArray[np.float64]  # (m + 1,) saved by a first stage that follows itself
    follows: NDArray[np.float64]  # (n + 1,) how often it does, by the samples that go on from it

    @classmethod
    def of(
        cls,
        times: Sequence[MemberTime],
        batch: int | None,
        n: int,
        factors: Sequence[Factors] | None = None,
        rest: float = 1.0,
    ) -> "Timed":
        """Tabulate for samples that arrive `batch` at a time, or in a queue that never empties.

        Args:
            times: (m,) of the members.
            batch: Its survivors, whose number is binomial, go on together. None: every stage is always given
                as many samples as suit it best.
            n: Samples of the split.
            factors: (m,) that correct the times of runs.
            rest: Corrects the times of preparing and decoding.
        """
        specs = list(dict.fromkeys(time.preprocess for time in times))
        runs, prepares = [time.run for time in times], [time.prepare for time in times]
        if batch is None:
            share = np.arange(n + 1) / n
            run_s, prepare_s = (
                np.array([curve.best_s for curve in curves])[:, None] * share for curves in (runs, prepares)
            )
            decode_s = times[0].decode.best_s
            gain_s, follows = np.zeros(len(times)), np.zeros(n + 1)
        else:
            chances = binomial(batch, np.arange(n + 1) / n)
            run_s, prepare_s = (_expected(curves, chances) for curves in (runs, prepares))
            decode_s = float(times[0].decode.at(np.array(batch))) / batch
            gain_s = np.array([float(time.gain.at(np.array(batch))) for time in times]) / batch
            follows = chances[:, 0]
        decode_s, prepare_s = rest * decode_s, rest * prepare_s
        first_s = run_s
        if factors is not None:
            first_s = run_s * np.array([factor.first for factor in factors])[:, None]
            run_s = run_s * np.array([factor.later for factor in factors])[:, None]
        return cls(
            singles=first_s[:, -1] + prepare_s[:, -1] + decode_s - gain_s * follows[0],
            decode_s=decode_s,
            first_s=np.vstack([first_s, np.zeros(n + 1)]),
            run_s=np.vstack([run_s, np.zeros(n + 1)]),
            prepare_s=np.vstack([prepare_s, np.zeros(n + 1)]),
            specs=np.array([*(specs.index(time.preprocess) for time in times), len(specs)]),
            gain_s=np.append(gain_s, 0.0),
            follows=follows,
        )

    def mean(self, members: NDArray[np.intp], reached: NDArray[np.int64], n: int) -> NDArray[np.float64]:
        """See `CostModel`."""
        if n != self.run_s.shape[1] - 1:
            raise ValueError(f"tabulated for {self.run_s.shape[1] - 1} samples, asked about {n}")
        specs = self.specs[members]
        costs = self.run_s[members, reached]
        costs[:, 0] = self.first_s[members[:, 0], reached[:, 0]]
        for stage in range(members.shape[1]):
            is_new = (specs[:, :stage] != specs[:, stage : stage + 1]).all(axis=1)
            costs[:, stage] += is_new * self.prepare_s[members[:, stage], reached[:, stage]]
        goes_on = reached[:, 1] if reached.shape[1] > 1 else np.zeros(len(reached), np.int64)
        saved_s = self.gain_s[members[:, 0]] * self.follows[goes_on]
        total: NDArray[np.float64] = costs.sum(axis=1) + self.decode_s - saved_s
        return total


def _expected(curves: Sequence[Curve], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(curves, n + 1) mean seconds per sample of the batch."""
    batch = chances.shape[1] - 1
    times_s = np.array([curve.at(np.arange(batch + 1)) for curve in curves])
    # Not by the @ of a threaded library, whose last bits depend on its threads.
    expected: NDArray[np.float64] = np.einsum("mk,rk->mr", times_s, chances) / batch
    return expected


@dataclass(frozen=True)
class Objective:
    """The cost that a search minimises beside the error, per sample."""

    kind: Kind
    provider: str | None = None  # None: the only one that was measured
    batch: int | None = None
    machine: str | None = None  # part of its name

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Read `macs` (or `flops`), `latency:cpu:8:EPYC`, `throughput:cpu:EPYC`, or a beginning of these.

        Raises:
            InvalidInput: Anything else.
        """
        if text in ("macs", "flops"):
            return cls("macs")
        head, *rest = text.split(":", 3 if text.startswith("latency") else 2)
        if head == "throughput":
            provider, batch, machine = rest[0] if rest else "", "", rest[1] if len(rest) > 1 else ""
        else:
            provider, batch, machine = (*rest, "", "", "")[:3]
        if head not in ("latency", "throughput") or not re.fullmatch("([1-9][0-9]*)?", batch):
            raise InvalidInput(
                f"objective '{text}': must be macs, latency, latency:PROVIDER, latency:PROVIDER:BATCH, "
                "latency:PROVIDER:BATCH:MACHINE, or throughput with PROVIDER and MACHINE"
            )
        kind: Kind = "latency" if head == "latency" else "throughput"
        return cls(kind, provider or None, int(batch) if batch else None, machine or None)

    def __str__(self) -> str:
        """Write what `parse` reads."""
        if self.kind == "macs":
            return "macs"
        batch = [] if self.kind == "throughput" else ["" if self.batch is None else str(self.batch)]
        parts = [self.kind, self.provider or "", *batch, self.machine or ""]
        return ":".join(parts).rstrip(":")

    @property
    def unit(self) -> Unit:
        """Unit of its costs."""
        return "MACs" if self.kind == "macs" else "s"


def cost_model(
    members: Sequence[Member], objective: Objective, n: int, corrections: Corrections | None = None
) -> CostModel:
    """Say what cascades of some members cost.

    Args:
        members: Member i is number i in the model.
        objective: What counts.
        n: Samples of the split that exits are counted on.
        corrections: Of times, where some cascades were run.

    Raises:
        InvalidInput: A member was not measured, or measurements of several machines would be mixed.
    """
    if objective.kind == "macs":
        return PerSample(np.array([member.macs for member in members], np.float64))
    times, batch = member_times(members, objective)
    size = None if objective.kind == "throughput" else batch
    if corrections is None:
        return Timed.of(times, size, n)
    return Timed.of(times, size, n, [corrections.of(member.name) for member in members], corrections.rest)


def taking_part(members: Sequence[Member], objective: Objective) -> tuple[Member, ...]:
    """Leave out variants that were not measured where the objective says.

    An fp16 variant has no business on a CPU, nor need an int8 one have any on a GPU; of every other member
    the time must be known.
    """
    if objective.kind == "macs":
        return tuple(members)
    return tuple(member for member in members if member.variant is None or _fitting(member, objective))


def member_times(members: Sequence[Member], objective: Objective) -> tuple[list[MemberTime], int]:
    """Find what members take where the objective says, and the batch size that it means.

    Raises:
        InvalidInput: A member was not measured, or measurements of several machines would be mixed.
    """
    machine, provider = setting(members, objective)
    entries = [
        [e for e in _fitting(member, objective) if (e.machine, e.provider) == (machine, provider)]
        for member in members
    ]
    common = set.intersection(*({e.batch for e in found} for found in entries))
    if not common:
        raise InvalidInput(
            f"objective '{objective}': no batch size was measured for all members; measure them again: "
            "encas pool measure POOL"
        )
    times = [MemberTime.of(found, member.preprocess) for found, member in zip(entries, members, strict=True)]
    return times, objective.batch or min(common)


def setting(members: Sequence[Member], objective: Objective) -> _Setting:
    """Find the machine and the provider that the objective means.

    Raises:
        InvalidInput: A member was not measured, or measurements of several machines would be mixed.
    """
    fitting = {member.name: _fitting(member, objective) for member in members}
    missing = [name for name, entries in fitting.items() if not entries]
    if missing:
        raise InvalidInput(
            f"objective '{objective}': no such latency is recorded for {missing[0]}"
            + (f" and {len(missing) - 1} more members" if len(missing) > 1 else "")
            + "; measure the pool first: encas pool measure POOL"
        )
    settings = [{(e.machine, e.provider) for e in found} for found in fitting.values()]
    return _only(set.intersection(*settings), objective)


def _only(settings: set[_Setting], objective: Objective) -> _Setting:
    """Return the setting that is meant."""
    exact = {setting for setting in settings if setting[0] == objective.machine}
    settings = exact or settings
    if len(settings) == 1:
        return next(iter(settings))
    if not settings:
        raise InvalidInput(
            f"objective '{objective}': no machine and provider was measured for all members; "
            "measure them again: encas pool measure POOL"
        )
    machine, provider = min(settings)
    found = ", ".join(f"{p} on {m}" for m, p in sorted(settings))
    one = replace(objective, provider=provider, machine=machine)
    raise InvalidInput(
        f"objective '{objective}': times must come from one machine and provider; found {found}; "
        f"name one, as in '{one}'"
    )


def _fitting(member: Member, objective: Objective) -> list[Latency]:
    """Times of a member where the objective says; those of a network in another precision are not its own."""
    return [
        entry
        for entry in member.latency
        if entry.precision == member.precision
        and objective.provider in (None, entry.provider)
        and (objective.machine or "") in entry.machine
    ]
