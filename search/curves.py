"""What pictures of fronts show: points, what is said of them, and bands around them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encas.cascade import Cascade
from encas.cost import Unit
from encas.errors import InvalidInput
from encas.front import Candidate, Front, Single

PER_UNIT: Mapping[Unit, float] = {"MACs": 1e-6, "s": 1e3}
UNIT_TEXT: Mapping[Unit, str] = {"MACs": "MMACs", "s": "ms"}

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A front, or several that only their seeds tell apart; accuracies are percents."""

    name: str
    cost: Numbers  # (p,) rising, in the unit of the picture
    accuracy: Numbers  # (p,)
    low: Numbers  # (p,) or empty: the band around it
    high: Numbers
    texts: tuple[str, ...]  # (p,) what each point is, in lines
    is_step: bool = False  # between two points that of the cheaper one holds
    chosen: int | None = None  # the point of the cascade that was chosen
    searched: Numbers | None = None  # (p,) accuracies where it was searched, if they are not those above


@dataclass(frozen=True)
class Drawing:
    """All that is in a picture."""

    title: str
    unit: Unit
    bands: str  # what they are; empty without any
    singles: Curve
    curves: tuple[Curve, ...]

    @property
    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten, as far as there are costs."""
        low, high = self.range
        powers = range(math.floor(low), math.ceil(high) + 1)
        return [float(f"{first * 10.0**power:.1g}") for power in powers for first in (1, 2, 5)]

    @property
    def range(self) -> tuple[float, float]:
        """Powers of ten between which all costs lie, with some room."""
        costs = np.concatenate([curve.cost for curve in (self.singles, *self.curves)])
        powers = np.log10(costs[costs > 0])
        if not len(powers):
            return 0.0, 1.0
        room = 0.03 * float(np.ptp(powers)) + 0.02
        return float(powers.min()) - room, float(powers.max()) + room

    @classmethod
    def of(cls, fronts: Sequence[Front], chosen: Cascade | None = None) -> "Drawing":
        """Put fronts together that only their seeds tell apart, and find a cascade that was chosen.

        Raises:
            InvalidInput: The fronts' costs have different units, or the cascade is in none of them.
        """
        unit = _unit(fronts)
        groups: dict[tuple[str, ...], list[Front]] = {}
        for front in fronts:
            groups.setdefault(_kind(front), []).append(front)
        curves = tuple(
            _of_seeds(group) if len(group) > 1 else _of_front(group[0], chosen) for group in groups.values()
        )
        if chosen is not None and all(curve.chosen is None for curve in curves):
            raise InvalidInput(
                f"cascade '{chosen}': is no candidate of a front that is drawn on its own: "
                f"{', '.join(str(front.path) for front in fronts)}"
            )
        bands = {
            "all seeds" if len(group) > 1 else "where 95 of 100 tests will be"
            for group in groups.values()
            if len(group) > 1 or _reported(group[0])
        }
        return cls(
            _title(fronts), unit, ", or ".join(sorted(bands, reverse=True)), _singles(fronts, unit), curves
        )


def _kind(front: Front) -> tuple[str, ...]:
    """What fronts have in common that only their seeds tell apart."""
    file = front.file
    settings = sorted((name, str(value)) for name, value in file.settings.items() if name != "exhaustive")
    return (file.pool.sha256, file.split, file.objective, file.algorithm, str(settings))


def _of_front(front: Front, chosen: Cascade | None) -> Curve:
    scale = PER_UNIT[front.file.unit]
    found = [front.figures(candidate.cascade) for candidate in front.candidates]
    intervals = [figures.interval for figures in found if figures.interval is not None]
    is_chosen = [chosen is not None and chosen.stages == c.cascade.stages for c in front.candidates]
    return Curve(
        name=f"{front.path.name}: {len(found)} cascades ({front.file.algorithm})",
        cost=np.array([candidate.cost * scale for candidate in front.candidates]),
        accuracy=np.array([100 * figures.accuracy for figures in found]),
        low=np.array([100 * interval.low for interval in intervals]),
        high=np.array([100 * interval.high for interval in intervals]),
        texts=tuple(_described(front, i) for i in range(len(found))),
        chosen=is_chosen.index(True) if any(is_chosen) else None,
        searched=np.array([100 * c.accuracy for c in front.candidates]) if _reported(front) else None,
    )


def _of_seeds(fronts: Sequence[Front]) -> Curve:
    """Take for every cost what each front offers for it: its dearest cascade of no more cost."""
    scale = PER_UNIT[fronts[0].file.unit]
    costs = [np.array([c.cost for c in front.candidates]) for front in fronts]
    accuracies = [np.array([front.figures(c.cascade).accuracy for c in front.candidates]) for front in fronts]
    start = max(cost[0] for cost in costs)  # below, some fronts have nothing
    at = np.unique(np.concatenate(costs))
    at = at[at >= start]
    offers = np.array(
        [a[np.searchsorted(c, at, side="right") - 1] for a, c in zip(accuracies, costs, strict=True)]
    )
    name = f"{fronts[0].path.name} and {len(fronts) - 1} more seeds ({fronts[0].file.algorithm}): median"
    median, low, high = np.median(offers, axis=0), offers.min(axis=0), offers.max(axis=0)
    unit = UNIT_TEXT[fronts[0].file.unit]
    texts = tuple(
        f"{name} {m:.2%} at {cost * scale:.4g} {unit}\nlowest {one:.2%}, highest {other:.2%}"
        for cost, m, one, other in zip(at.tolist(), median, low, high, strict=True)
    )
    return Curve(name, at * scale, 100 * median, 100 * low, 100 * high, texts, is_step=True)


def _singles(fronts: Sequence[Front], unit: Unit) -> Curve:
    """All members of all fronts, once."""
    singles = list({single: None for front in fronts for single in front.file.singles})
    accuracy = [100 * (1 - _error(single)) for single in singles]
    none = np.empty(0)
    return Curve(
        name=f"single members ({len(singles)})",
        cost=np.array([single.cost * PER_UNIT[unit] for single in singles]),
        accuracy=np.array(accuracy),
        low=none,
        high=none,
        texts=tuple(single.member for single in singles),
    )


def _error(single: Single) -> float:
    return single.error if single.report_error is None else single.report_error


def _described(front: Front, number: int) -> str:
    """Say what it does, and on a line for each stage which samples leave there."""
    candidate = front.candidates[number]
    found = front.figures(candidate.cascade)
    lines = [
        f"cascade {number + 1} of {len(front.candidates)}: {found.accuracy:.2%} at {_cost(front, candidate)}"
    ]
    if found.interval is not None:
        low, high = found.interval.low, found.interval.high
        lines.append(f"expect {low:.2%} to {high:.2%} on {found.interval.n} new samples")
    for stage, fraction in zip(candidate.cascade.stages, found.exit_fractions, strict=True):
        rule = "the rest" if stage.threshold is None else f"above {stage.threshold:g}"
        lines.append(f"{stage.member}: {rule} ({fraction:.1%})")
    return "\n".join(lines)


def _cost(front: Front, candidate: Candidate) -> str:
    unit = front.file.unit
    return f"{candidate.cost * PER_UNIT[unit]:.4g} {UNIT_TEXT[unit]}"


def _unit(fronts: Sequence[Front]) -> Unit:
    units = {front.file.unit: front for front in fronts}
    if len(units) > 1:
        (_, one), (_, other) = list(units.items())[:2]
        raise InvalidInput(
            f"{one.path} was searched by {one.file.objective}, {other.path} by {other.file.objective}: "
            "fronts of one objective are needed"
        )
    return fronts[0].file.unit


def _reported(front: Front) -> bool:
    return front.candidates[0].cascade.reported is not None


def _title(fronts: Sequence[Front]) -> str:
    splits = ", ".join(sorted({front.file.split for front in fronts}))
    are = {_reported(front) for front in fronts}
    if are == {True}:
        return f"Cascades found, on samples of {splits} that were kept out of the search"
    if are == {False}:
        return f"Cascades found, on the split they were searched on ({splits})"
    return f"Cascades found, some on samples of {splits} kept out of the search, some on those searched on"
