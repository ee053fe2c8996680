"""Fronts as pictures: a PNG to look at, and a page that says what each point is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encas.cascade import Cascade
from encas.errors import require
from encas.files import replaced, write_bytes
from encas.front import Front
from encas.search.curves import UNIT_TEXT, Curve, Drawing, Numbers

# Okabe and Ito: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"
# Of plotly's tools those that work on the page alone.
_TOOLS = {"displaylogo": False, "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}
# Arrow keys go along a front and from one to the next, and what is reached is said in words.
_KEYS = """
const plot = document.getElementById("front");
const said = document.createElement("p");
said.id = "said";
said.setAttribute("role", "status");
said.setAttribute("aria-live", "polite");
said.textContent = "Arrow keys left and right go along a front, up and down from one to the next.";
said.style = "font: 15px/1.4 sans-serif; white-space: pre-line; margin: 0 40px; min-height: 8em";
plot.after(said);
plot.setAttribute("tabindex", "0");
plot.setAttribute("role", "group");
plot.setAttribute("aria-label", "Cascades by cost and accuracy; use the arrow keys");
const traces = plot.data.map((trace, i) => i).filter(i => plot.data[i].customdata);
const here = plot.data.findIndex(trace => trace.meta === "here");
let at = 0, point = plot.data[traces[0]].selectedpoint ?? -1;
function show(trace, i) {
  const {x, y, customdata} = plot.data[trace];
  said.textContent = customdata[i];
  Plotly.restyle(plot, {x: [[x[i]]], y: [[y[i]]], visible: true}, [here]);
}
plot.on("plotly_click", event => {
  const {curveNumber, pointNumber} = event.points[0];
  if (!traces.includes(curveNumber)) return;
  [at, point] = [traces.indexOf(curveNumber), pointNumber];
  show(curveNumber, pointNumber);
});
document.addEventListener("keydown", event => {
  const n = () => plot.data[traces[at]].customdata.length;
  const keys = {
    ArrowRight: () => { point += 1; },
    ArrowLeft: () => { point = point < 0 ? n() - 1 : point - 1; },
    Home: () => { point = 0; },
    End: () => { point = n() - 1; },
    ArrowUp: () => { at = (at + traces.length - 1) % traces.length; },
    ArrowDown: () => { at = (at + 1) % traces.length; },
  };
  if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
  point = Math.max(0, Math.min(n() - 1, point));
  show(traces[at], point);
});
"""


def draw(front: Front) -> None:
    """Write `front.png` and `front.html` beside `front.json`."""
    draw_png([front], front.path / "front.png")
    draw_html([front], front.path / "front.html")


def draw_png(fronts: Sequence[Front], path: Path, chosen: Cascade | None = None) -> None:
    """Draw fronts and the single members they were made of, 1200 by 750 pixels.

    Args:
        fronts: Those of the same pool, objective and settings become one line and a band.
        path: Of the picture.
        chosen: A candidate to be marked.

    Raises:
        InvalidInput: The fronts' costs have different units, or the cascade is none of theirs.
    """
    require("matplotlib", "search")
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415

    drawing = Drawing.of(fronts, chosen)
    figure = Figure(figsize=(12, 7.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    singles = drawing.singles
    axes.scatter(singles.cost, singles.accuracy, s=60, color=GREY, label=singles.name, zorder=3)
    for curve, colour in zip(drawing.curves, _colours(drawing), strict=True):
        if len(curve.low):
            axes.fill(*_outline(curve), color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            curve.cost,
            curve.accuracy,
            linewidth=1.2,
            drawstyle="steps-post" if curve.is_step else "default",
            marker=None if curve.is_step else "o",
            markersize=4,
            color=colour,
            label=curve.name,
        )
        if curve.searched is not None:
            axes.plot(curve.cost, curve.searched, ":", linewidth=1, color=colour)
        if curve.chosen is not None:
            at = curve.cost[curve.chosen], curve.accuracy[curve.chosen]
            axes.scatter(*at, s=260, marker="*", color="black", label="chosen", zorder=4)
    if any(curve.searched is not None for curve in drawing.curves):
        axes.plot([], [], ":", linewidth=1, color="black", label=_SEARCHED)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=12)
    axes.set_xlabel(_cost_axis(drawing), fontsize=13)
    axes.set_ylabel("accuracy, %", fontsize=13)
    axes.set_title("\n".join(_title(drawing)), fontsize=14)
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    # Below the axes, where it covers no point.
    figure.legend(loc="outside lower center", ncols=2, fontsize=12)
    with replaced(path) as temporary:
        # The version that matplotlib would note says nothing about the picture.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_html(fronts: Sequence[Front], path: Path, chosen: Cascade | None = None) -> None:
    """Write a page that needs nothing else: each point says which cascade it is.

    Args:
        fronts: Those of the same pool, objective and settings become one line and a band.
        path: Of the page.
        chosen: A candidate to be marked.

    Raises:
        InvalidInput: The fronts' costs have different units, or the cascade is none of theirs.
    """
    require("plotly", "search")
    from plotly.graph_objects import Figure  # type: ignore[import-untyped]  # noqa: PLC0415

    drawing = Drawing.of(fronts, chosen)
    unit = UNIT_TEXT[drawing.unit]
    singles = drawing.singles
    traces: list[dict[str, Any]] = [
        {
            "x": singles.cost.tolist(),
            "y": singles.accuracy.tolist(),
            "text": singles.texts,
            "mode": "markers",
            "marker": {"color": GREY, "size": 10},
            "name": singles.name,
            "hovertemplate": f"%{{text}}<br>%{{y:.2f}} % at %{{x:.4g}} {unit}<extra></extra>",
        }
    ]
    for curve, colour in zip(drawing.curves, _colours(drawing), strict=True):
        traces += _traces(curve, colour)
    dotted = [trace for trace in traces if trace.get("legendgroup")]
    for trace in dotted[1:]:
        trace["showlegend"] = False
    traces.append(_ring(drawing))
    figure = Figure([{"type": "scatter", **trace} for trace in traces], _layout(drawing))
    page: str = figure.to_html(
        include_plotlyjs=True,
        div_id="front",
        default_height="70vh",
        config=_TOOLS,
        full_html=True,
        post_script=_KEYS,
    )
    head = f"<head><title>{drawing.title}</title><style>body {{ margin: 0 }}</style>"
    page = page.replace("<html>", '<html lang="en">', 1).replace("<head>", head, 1)
    write_bytes(path, page.encode())


_SEARCHED = "where they were searched"


def _traces(curve: Curve, colour: str) -> list[dict[str, Any]]:
    """Draw a band, a line with its points, and beside it the line of what was searched on."""
    cost, accuracy = curve.cost.tolist(), curve.accuracy.tolist()
    traces: list[dict[str, Any]] = []
    if len(curve.low):
        traces.append(_band(curve, colour))
    line = {
        "x": cost,
        "y": accuracy,
        "text": [text.replace("\n", "<br>") for text in curve.texts],
        "customdata": curve.texts,
        "mode": "lines" if curve.is_step else "lines+markers",
        "marker": {"color": colour, "size": 6},
        "line": {"color": colour, "width": 1.5, "shape": "hv" if curve.is_step else "linear"},
        "name": curve.name,
        "hovertemplate": "%{text}<extra></extra>",
    }
    traces.append(line)
    if curve.searched is not None:
        dotted = {"color": colour, "width": 1, "dash": "dot"}
        searched = {"x": cost, "y": curve.searched.tolist(), "mode": "lines", "line": dotted}
        # One entry in the legend for the lines of all fronts.
        traces.append({**searched, "name": _SEARCHED, "hoverinfo": "skip", "legendgroup": _SEARCHED})
    if curve.chosen is not None:
        star = {"color": "black", "size": 16, "symbol": "star"}
        at = {"x": [cost[curve.chosen]], "y": [accuracy[curve.chosen]]}
        traces.append({**at, "mode": "markers", "marker": star, "name": "chosen", "hoverinfo": "skip"})
    return traces


def _band(curve: Curve, colour: str) -> dict[str, Any]:
    x, y = _outline(curve)
    fill = {"fill": "toself", "fillcolor": colour, "opacity": 0.15, "line": {"width": 0}, "mode": "lines"}
    return {"x": x.tolist(), "y": y.tolist(), **fill, "hoverinfo": "skip", "showlegend": False}


def _outline(curve: Curve) -> tuple[Numbers, Numbers]:
    """Go along the upper edge of a band, and back along the lower."""
    cost, low, high = curve.cost, curve.low, curve.high
    if curve.is_step:
        cost, low, high = np.repeat(cost, 2)[1:], np.repeat(low, 2)[:-1], np.repeat(high, 2)[:-1]
    return np.concatenate([cost, cost[::-1]]), np.concatenate([high, low[::-1]])


def _ring(drawing: Drawing) -> dict[str, Any]:
    """Draw around the point that the arrow keys have reached; nothing at first."""
    first = drawing.curves[0]
    return {
        "x": [float(first.cost[0])],
        "y": [float(first.accuracy[0])],
        "mode": "markers",
        "marker": {"color": "black", "size": 16, "symbol": "circle-open", "line": {"width": 2}},
        "meta": "here",
        "hoverinfo": "skip",
        "showlegend": False,
        "visible": False,
    }


def _layout(drawing: Drawing) -> dict[str, Any]:
    return {
        "title": {"text": "<br>".join(_title(drawing)), "font": {"size": 18}},
        "template": "plotly_white",
        "font": {"size": 15},
        "margin": {"l": 80, "r": 40, "t": 80, "b": 60},
        "xaxis": {
            "title": _cost_axis(drawing),
            "type": "log",
            "range": drawing.range,
            "tickvals": drawing.ticks,
            "ticktext": [f"{tick:g}" for tick in drawing.ticks],
        },
        "yaxis": {"title": "accuracy, %"},
        # Below the axes, where it covers no point.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.16, "yanchor": "top"},
        "hoverlabel": {"align": "left"},
    }


def _cost_axis(drawing: Drawing) -> str:
    return f"mean cost per sample, {UNIT_TEXT[drawing.unit]}"


def _title(drawing: Drawing) -> list[str]:
    """Give the lines above a picture."""
    return [drawing.title, f"Bands: {drawing.bands}"] if drawing.bands else [drawing.title]


def _colours(drawing: Drawing) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(drawing.curves))]
