"""Gears: cascades of one front in one bundle; a server with much to do takes a cheaper one."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from encas.cascade import Cascade, Evaluated
from encas.errors import InvalidInput
from encas.files import FileModel
from encas.front import Front


class Point(FileModel):
    """What a cascade of the front does, to show the gears against."""

    accuracy: float = Field(ge=0, le=1)
    macs: float = Field(ge=0)  # mean per sample


class GearsFile(FileModel):
    """`gears.json` of a bundle. Gear 0 is the bundle's `cascade.json`."""

    format: Literal["encas-gears/1"] = "encas-gears/1"
    cheaper: tuple[Cascade, ...] = Field(min_length=1)  # gears 1, 2, ..., by falling cost
    front: tuple[Point, ...] = ()  # by rising cost


def common_split(gears: Sequence[Cascade]) -> str | None:
    """Name the samples on which all gears have figures, those that nothing was chosen by before others."""
    first = gears[0]
    names = list(first.evaluated)
    if first.searched is not None:
        names.sort(key=lambda name: name != first.searched.report if first.searched else False)
    return next((name for name in names if all(name in gear.evaluated for gear in gears)), None)


def figures_of(gears: Sequence[Cascade]) -> tuple[str, tuple[Evaluated, ...]] | None:
    """Return the split on which all gears have figures, and these; None if there is none."""
    split = common_split(gears)
    return None if split is None else (split, tuple(gear.evaluated[split] for gear in gears))


def check_order(gears: Sequence[Cascade]) -> None:
    """Check that every gear is cheaper than the one before it.

    Raises:
        InvalidInput: One is not, or it cannot be known.
    """
    found = figures_of(gears)
    if found is None:
        raise InvalidInput("gears: they were evaluated on different splits; evaluate them on one")
    split, figures = found
    for number in range(1, len(gears)):
        before, after = figures[number - 1].macs, figures[number].macs
        if after >= before:
            raise InvalidInput(
                f"gear {number} ({gears[number]}): takes {after / 1e6:.4g} MMACs on '{split}', and gear "
                f"{number - 1} takes {before / 1e6:.4g}; name the gears by falling cost"
            )


def gears_of(front: Front, n: int) -> tuple[Cascade, ...]:
    """Choose gears from a front: the most accurate cascade, then the best of half its cost, of a quarter, ...

    Args:
        front: By any objective; its costs are halved.
        n: At least 1. Fewer come back where the front ends before.
    """
    candidates = front.candidates
    chosen = [candidates[-1]]
    for number in range(1, n):
        most = candidates[-1].cost / 2**number
        fitting = [candidate for candidate in candidates if candidate.cost <= most]
        if not fitting:
            break
        if fitting[-1] is not chosen[-1]:
            chosen.append(fitting[-1])
    return tuple(candidate.cascade for candidate in chosen)


def points_of(front: Front) -> tuple[Point, ...]:
    """Accuracy and cost of every cascade of a front, on the samples that the front reports."""
    figures = [front.figures(candidate.cascade) for candidate in front.candidates]
    return tuple(Point(accuracy=one.accuracy, macs=one.macs) for one in figures)
