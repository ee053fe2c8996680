"""The figures of an experiment, from stored results: median run, band over all runs, published points."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.errors import require
from encas.files import replaced
from encas.search.experiment.config import Pictured
from encas.search.experiment.published import LABELS, PUBLISHED
from encas.search.experiment.results import Reference, Result
from encas.search.picture import COLOURS, GREY

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One way over all its runs; x rises."""

    label: str
    x: Numbers
    median: Numbers  # of the median run
    low: Numbers  # the worst of all runs at each x
    high: Numbers  # the best
    is_published: bool = False


@dataclass(frozen=True)
class Figure:
    """All that is in a picture."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]


def figure_of(
    told: Pictured, results: Sequence[Result], reference: Reference, labels: Mapping[str, str]
) -> Figure:
    """Make a figure of what was found.

    Args:
        told: What to show.
        results: Of all parts and runs.
        reference: What says which run is the median one, by its hypervolume on test.
        labels: Of parts, where they are called otherwise.
    """
    lines = []
    for name in told.shows:
        mine = [one for one in results if one.part == name]
        label = labels.get(name, name)
        if told.kind == "fronts":
            lines.append(_front(label, mine, reference))
        else:
            lines.append(_growth(label, mine, reference))
    if told.kind == "evaluations":
        return Figure(
            told.name, told.title, "different cascades evaluated", "hypervolume on val", tuple(lines)
        )
    lines += [_published(name) for name in told.published]
    return Figure(told.name, told.title, "mean cost per image, MMACs", "accuracy on test, %", tuple(lines))


def _front(label: str, results: Sequence[Result], reference: Reference) -> Line:
    """For every budget the test accuracy of what is the most accurate on val within it."""
    volumes = [reference.volume(one.array("test")) for one in results]
    middle = int(np.argsort(volumes, kind="stable")[(len(volumes) - 1) // 2])
    costs = [one.array("val")[:, 1] for one in results]
    start = max(cost[0] for cost in costs)  # below, some runs have nothing
    at = np.unique(np.concatenate(costs))
    at = at[at >= start]
    offers = np.array(
        [
            100 * (1 - one.array("test")[np.searchsorted(cost, at, side="right") - 1, 0])
            for one, cost in zip(results, costs, strict=True)
        ]
    )
    said = f"{label} ({len(results)} runs)" if len(results) > 1 else label
    return Line(said, at / 1e6, offers[middle], offers.min(axis=0), offers.max(axis=0))


def _growth(label: str, results: Sequence[Result], reference: Reference) -> Line:
    traces = [one.trace for one in results if one.trace is not None]
    at = np.unique(np.concatenate([trace.evaluations for trace in traces])).astype(float)
    at = at[at <= min(trace.evaluations[-1] for trace in traces)]
    grown = []
    for trace in traces:
        volumes = np.array([reference.volume(np.array(points)) for points in trace.points])
        grown.append(volumes[np.searchsorted(trace.evaluations, at, side="right") - 1])
    ends = [volumes[-1] for volumes in grown]
    middle = int(np.argsort(ends, kind="stable")[(len(ends) - 1) // 2])
    both = np.array(grown)
    return Line(f"{label} ({len(traces)} runs)", at, both[middle], both.min(axis=0), both.max(axis=0))


def _published(name: str) -> Line:
    macs, accuracy = np.array(PUBLISHED[name], np.float64).T
    return Line(LABELS[name], macs, accuracy, accuracy, accuracy, is_published=True)


def draw_png(figure: Figure, path: Path) -> None:
    """Draw a figure, 1200 by 750 pixels."""
    require("matplotlib", "search")
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415

    picture = Picture(figsize=(12, 7.5), dpi=100, layout="constrained")
    axes = picture.add_subplot()
    for line, colour in _coloured(figure):
        if line.is_published:
            axes.plot(line.x, line.median, "D--", color=colour, markersize=7, linewidth=0.8, label=line.label)
            continue
        axes.fill_between(line.x, line.low, line.high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.plot(line.x, line.median, color=colour, linewidth=1.5, drawstyle="steps-post", label=line.label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=12)
    axes.set_xlabel(figure.x_label, fontsize=13)
    axes.set_ylabel(figure.y_label, fontsize=13)
    axes.set_title(f"{figure.title}\nmedian run; band: worst to best of all runs", fontsize=14)
    axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.5)
    picture.legend(loc="outside lower center", ncols=2, fontsize=12)
    with replaced(path) as temporary:
        picture.savefig(temporary, format="png", metadata={"Software": None})


def as_html(figure: Figure, *, with_code: bool) -> str:
    """Draw a figure as a part of a page; the first of a page brings the code that the others use."""
    require("plotly", "search")
    from plotly.graph_objects import Figure as Picture  # type: ignore[import-untyped]  # noqa: PLC0415

    traces: list[dict[str, Any]] = []
    for line, colour in _coloured(figure):
        x = line.x.tolist()
        if not line.is_published:
            band = {"x": x, "mode": "lines", "line": {"width": 0, "shape": "hv", "color": colour}}
            band |= {"hoverinfo": "skip", "showlegend": False, "legendgroup": line.label}
            traces.append({**band, "y": line.low.tolist()})
            traces.append({**band, "y": line.high.tolist(), "fill": "tonexty", "fillcolor": f"{colour}26"})
        shape = {"dash": "dash"} if line.is_published else {"shape": "hv"}
        traces.append(
            {
                "x": x,
                "y": line.median.tolist(),
                "name": line.label,
                "legendgroup": line.label,
                "mode": "lines+markers" if line.is_published else "lines",
                "line": {"color": colour, "width": 2, **shape},
            }
        )
    layout = {
        "title": figure.title,
        "template": "plotly_white",
        "xaxis": {"title": figure.x_label, "type": "log"},
        "yaxis": {"title": figure.y_label},
        "legend": {"orientation": "h", "y": -0.2},
    }
    picture = Picture([{"type": "scatter", **trace} for trace in traces], layout)
    text: str = picture.to_html(
        include_plotlyjs=with_code, full_html=False, div_id=figure.name, default_height="75vh"
    )
    return text


def _coloured(figure: Figure) -> Iterator[tuple[Line, str]]:
    ours = [line for line in figure.lines if not line.is_published]
    for index, line in enumerate(ours):
        yield line, COLOURS[index % len(COLOURS)]
    for line in figure.lines:
        if line.is_published:
            yield line, GREY
