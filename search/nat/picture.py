"""A transfer as a picture: what each iteration found, and how well it was guessed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.errors import require
from encas.files import replaced
from encas.search.nat.iteration import Candidates, Evaluated, Evaluation
from encas.search.pareto import non_dominated

Round = tuple[Candidates, Evaluated]

_COLOURS = "viridis"  # of iterations, dark to bright; told apart by colour-blind readers too
_LAST = "#D55E00"
_GREY = "#999999"


def draw(rounds: Sequence[Round], archive: Sequence[Evaluation], path: Path) -> None:
    """Draw all iterations so far, 1600 by 800 pixels.

    Left: error against MACs, an iteration a colour, and the front of the archive. Right: errors as they were
    guessed and as they are, where anything was guessed.
    """
    require("matplotlib", "search")
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 5), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    shades = _shades(len(rounds))
    for (_, found), shade in zip(rounds[:-1], shades, strict=False):
        left.scatter(*_points(found.evaluations), s=12, color=shade, alpha=0.6, linewidths=0)
    _draw_last(left, rounds[-1][1], archive, len(rounds) - 1)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter(_few_labels)
    left.set_xlabel("multiply-accumulates of an image, MMACs")
    left.set_ylabel("error on the validation images, %")
    _draw_guesses(right, rounds, shades)
    right.set_xlabel("guessed error, %")
    right.set_ylabel("true error, %")
    for axes in (left, right):
        axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.5)
    if len(rounds) > 1:
        _add_scale(figure, [left, right], len(rounds) - 1)
    with replaced(path) as temporary:
        # The version that matplotlib would note says nothing about the picture.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_last(axes: Any, found: Evaluated, archive: Sequence[Evaluation], iteration: int) -> None:
    macs, errors = _points(found.evaluations)
    axes.scatter(macs, errors, s=16, color=_LAST, linewidths=0, label=f"iteration {iteration} ({len(macs)})")
    macs, errors = _points(archive)
    front = non_dominated(np.column_stack([errors, macs]))
    front = front[np.argsort(macs[front])]
    axes.step(
        macs[front],
        errors[front],
        where="post",
        color=_LAST,
        linewidth=1.4,
        label=f"front of the archive ({len(front)})",
    )
    axes.set_title("Networks that were evaluated")
    axes.legend(loc="best")


def _draw_guesses(axes: Any, rounds: Sequence[Round], shades: Any) -> None:
    axes.set_title("How well errors were guessed")
    seen = []
    for index, (chosen, found) in enumerate(rounds):
        if chosen.guessed_errors is None:
            continue
        guessed, (_, errors) = 100 * np.array(chosen.guessed_errors), _points(found.evaluations)
        is_last = index == len(rounds) - 1
        axes.scatter(
            guessed,
            errors,
            s=16 if is_last else 12,
            color=_LAST if is_last else shades[index],
            alpha=1 if is_last else 0.6,
            linewidths=0,
            label=f"iteration {index}" if is_last else None,
        )
        seen += [guessed, errors]
    if not seen:
        axes.text(0.5, 0.5, "the first networks are not guessed", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    ends = [np.min(np.concatenate(seen)), np.max(np.concatenate(seen))]
    axes.plot(ends, ends, color=_GREY, linewidth=1, zorder=0, label="guessed as it is")
    axes.legend(loc="upper left")


def _add_scale(figure: Any, axes: Any, n_earlier: int) -> None:
    """Say which colour is which of the iterations before the last."""
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415
    from matplotlib.colors import BoundaryNorm, ListedColormap  # noqa: PLC0415

    norm = BoundaryNorm(np.arange(n_earlier + 1) - 0.5, n_earlier)
    shades = ScalarMappable(norm, ListedColormap(_shades(n_earlier + 1)))
    bar = figure.colorbar(shades, ax=axes, aspect=40)
    bar.set_label("earlier iterations")
    bar.set_ticks(list(range(0, n_earlier, -(-n_earlier // 10))))
    bar.ax.minorticks_off()


def _shades(n: int) -> Any:
    """(n - 1, 4) colours of the iterations before the last."""
    from matplotlib import colormaps  # noqa: PLC0415

    return colormaps[_COLOURS](np.linspace(0, 1, max(1, n - 1)))


def _few_labels(value: float, _position: int | None) -> str:
    """Label 2 and 5 between powers of ten."""
    first = int(f"{value:e}"[0])
    return f"{value:g}" if first in (2, 5) else ""


def _points(found: Sequence[Evaluation]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """MMACs, and errors in percent."""
    return np.array([one.macs / 1e6 for one in found]), np.array([100 * one.error for one in found])
