"""Fronts as pictures: a PNG to look at, and a page that says what each point is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encas.cost import Unit
from encas.errors import InvalidInput, require
from encas.files import replaced, write_bytes
from encas.front import Candidate, Front, Single

AXIS = {"MACs": "mean cost per sample, MMACs", "s": "mean cost per sample, ms"}
PER_UNIT: dict[Unit, float] = {"MACs": 1e-6, "s": 1e3}
# Okabe and Ito: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"
# Of plotly's tools those that work on the page alone.
_TOOLS = {"displaylogo": False, "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}


def draw(front: Front) -> None:
    """Write `front.png` and `front.html` beside `front.json`."""
    draw_png([front], front.path / "front.png")
    draw_html([front], front.path / "front.html")


def draw_png(fronts: Sequence[Front], path: Path) -> None:
    """Draw fronts and the single members they were made of, 1200 by 750 pixels.

    Raises:
        InvalidInput: The fronts' costs have different units.
    """
    require("matplotlib", "search")
    from matplotlib.figure import Figure  # noqa: PLC0415

    scale = PER_UNIT[_unit(fronts)]
    figure = Figure(figsize=(12, 7.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    singles = _singles(fronts)
    axes.scatter(*_points(singles, scale), s=60, color=GREY, label=f"single members ({len(singles)})")
    for front, colour in zip(fronts, _colours(fronts), strict=True):
        axes.plot(
            *_points(front.candidates, scale),
            marker="o",
            markersize=4,
            linewidth=1.2,
            color=colour,
            label=_name(front),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(AXIS[_unit(fronts)])
    axes.set_ylabel("accuracy, %")
    axes.set_title(_title(fronts))
    axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.5)
    axes.legend(loc="lower right")
    with replaced(path) as temporary:
        # The version that matplotlib would note says nothing about the picture.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_html(fronts: Sequence[Front], path: Path) -> None:
    """Write a page that needs nothing else: each point says which cascade it is.

    Raises:
        InvalidInput: The fronts' costs have different units.
    """
    require("plotly", "search")
    from plotly.graph_objects import (  # type: ignore[import-untyped]  # noqa: PLC0415
        Figure,
        Scatter,
    )

    scale = PER_UNIT[_unit(fronts)]
    singles = _singles(fronts)
    figure = Figure(layout=_layout(fronts))
    cost, accuracy = _points(singles, scale)
    figure.add_trace(
        Scatter(
            x=cost,
            y=accuracy,
            text=[single.member for single in singles],
            mode="markers",
            marker={"color": GREY, "size": 10},
            name=f"single members ({len(singles)})",
            hovertemplate=_hover(fronts),
        )
    )
    for front, colour in zip(fronts, _colours(fronts), strict=True):
        cost, accuracy = _points(front.candidates, scale)
        figure.add_trace(
            Scatter(
                x=cost,
                y=accuracy,
                text=[_described(front, candidate) for candidate in front.candidates],
                mode="lines+markers",
                marker={"color": colour, "size": 6},
                line={"color": colour, "width": 1.5},
                name=_name(front),
                hovertemplate=_hover(fronts),
            )
        )
    page: str = figure.to_html(
        include_plotlyjs=True, div_id="front", default_height="90vh", config=_TOOLS, full_html=True
    )
    write_bytes(path, page.encode())


def _layout(fronts: Sequence[Front]) -> dict[str, Any]:
    return {
        "title": _title(fronts),
        "template": "plotly_white",
        "xaxis": {"title": AXIS[_unit(fronts)], "type": "log"},
        "yaxis": {"title": "accuracy, %"},
        "legend": {"x": 1, "y": 0, "xanchor": "right", "yanchor": "bottom"},
        "hoverlabel": {"align": "left"},
    }


def _hover(fronts: Sequence[Front]) -> str:
    unit = "MMACs" if _unit(fronts) == "MACs" else "ms"
    return f"%{{text}}<br>%{{y:.2f}} % at %{{x:.4g}} {unit}<extra></extra>"


def _described(front: Front, candidate: Candidate) -> str:
    """Put each stage on a line of its own, with the share of samples that leave there."""
    fractions = candidate.cascade.evaluated[front.file.split].exit_fractions
    lines = []
    for stage, fraction in zip(candidate.cascade.stages, fractions, strict=True):
        rule = "the rest" if stage.threshold is None else f"above {stage.threshold:g}"
        lines.append(f"{stage.member}: {rule} ({fraction:.1%})")
    return "<br>".join(lines)


def _points(points: Sequence[Single] | Sequence[Candidate], scale: float) -> tuple[list[float], list[float]]:
    """Costs in the unit of the picture and accuracies in percent."""
    return [p.cost * scale for p in points], [100 * (1 - p.error) for p in points]


def _singles(fronts: Sequence[Front]) -> list[Single]:
    """All members of all fronts, once."""
    return list({single: None for front in fronts for single in front.file.singles})


def _unit(fronts: Sequence[Front]) -> Unit:
    units = {front.file.unit: front for front in fronts}
    if len(units) > 1:
        (_, one), (_, other) = list(units.items())[:2]
        raise InvalidInput(
            f"{one.path} was searched by {one.file.objective}, {other.path} by {other.file.objective}: "
            "fronts of one objective are needed"
        )
    return fronts[0].file.unit


def _colours(fronts: Sequence[Front]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(fronts))]


def _name(front: Front) -> str:
    return f"{front.path.name}: {len(front.candidates)} cascades ({front.file.algorithm})"


def _title(fronts: Sequence[Front]) -> str:
    splits = sorted({front.file.split for front in fronts})
    return f"Cascades found, on the split they were searched on ({', '.join(splits)})"
