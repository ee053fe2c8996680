"""What commands print: tables that fit 80 columns, JSON for machines, progress on long work."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel


def print_json(value: Any) -> None:
    """Print a value, or a model, as one JSON document."""
    if isinstance(value, BaseModel):
        print(value.model_dump_json(indent=2))  # noqa: T201
    else:
        print(json.dumps(value, indent=2))  # noqa: T201


def print_line(text: str) -> None:
    """Print a line of a command's result."""
    print(text)  # noqa: T201


def print_note(text: str) -> None:
    """Print a line about the work itself, which is not part of the result, to stderr."""
    print(text, file=sys.stderr)  # noqa: T201


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns: the first to the left, the others to the right; wide names are cut to fit."""
    if not rows:
        return
    widths = [max(len(row[j]) for row in [header, *rows]) for j in range(len(header))]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(12, 80 - rest))
    for row in [header, ["-" * width for width in widths], *rows]:
        first = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *others]).rstrip())  # noqa: T201


Advance = Callable[[int, str], None]


@contextmanager
def progress(description: str, total: int, *, quiet: bool = False) -> Iterator[Advance]:
    """Show how far long work is: a bar on a terminal, a line now and then elsewhere, both on stderr.

    Yields:
        A function of what was done since the last call, and of a few words to show beside the bar.
    """
    if quiet:
        yield lambda _done, _words: None
    elif sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
    else:
        yield _lines(description, total)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, words="")
        yield lambda done, words: bar.update(task, advance=done, words=words)


def _left(n: float, per_s: float) -> str:
    """Say how long n more take, or nothing when none are left."""
    if n <= 0 or per_s <= 0:
        return ""
    minutes, seconds = divmod(round(n / per_s), 60)
    return f"{minutes}:{seconds:02d} left"


def _lines(description: str, total: int, every_s: float = 10.0) -> Advance:
    started_s = time.monotonic()
    state = {"done": 0, "printed_s": started_s}

    def advance(done: int, words: str) -> None:
        state["done"] += done
        now_s = time.monotonic()
        if state["done"] >= total or now_s - state["printed_s"] >= every_s:
            state["printed_s"] = now_s
            left = _left(total - state["done"], state["done"] / max(now_s - started_s, 1e-9))
            print_note(
                ", ".join(filter(None, [f"{description}: {state['done']}/{total} {words}".rstrip(), left]))
            )

    return advance
