"""What commands print: tables that fit 80 columns, JSON for machines, progress on long work."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from encas.measurement import BatchTiming, Measurements
    from encas.pool import Pool


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


def print_next(*words: object) -> None:
    """Print the command to type next: the first words as they are, the others quoted where they need it."""
    first, *others = words
    print(f"next: {first}", *(shlex.quote(str(word)) for word in others))  # noqa: T201


def print_measured(pool: "Pool", machine: str, provider: str, batch: int) -> None:
    """Print what to do with a pool after some of its members were timed."""
    from encas.cost import Objective, member_times, taking_part
    from encas.errors import InvalidInput

    for objective in (Objective("latency", provider, batch), Objective("latency", provider, batch, machine)):
        try:
            member_times(taking_part(pool.file.members, objective), objective)
        except InvalidInput:
            continue
        print_next("encas search --pool", pool.path, "--objective", objective)
        return
    if any(member.source == "imported" for member in pool.file.members):
        print_next("encas pool list", pool.path)
    else:
        print_next(
            "encas pool measure", pool.path, "--provider", provider, "--batch", batch, *allow_code(pool)
        )


def allow_code(pool: "Pool", names: Sequence[str] = ()) -> list[str]:
    """Say what must be added to commands that open these members' networks, all of them by default."""
    runs_code = any(pool.member(name).source.startswith("torch:") for name in names or pool.names)
    return ["--allow-code"] if runs_code else []


def seconds_text(seconds: float) -> str:
    """Three digits and the unit that fits, as `83.1 us`."""
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if float(f"{factor * seconds:.3g}") < 1000:
            return f"{factor * seconds:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


_NOISY = 0.1  # spread of medians that makes differences between members doubtful


def print_times(found: "Sequence[Measurements]", cascade: "Sequence[BatchTiming]" = ()) -> None:
    """Print the times of networks, and of the cascade that they are the members of."""
    named = [("cascade, from images", timing) for timing in cascade]
    named += [(name, t) for part in found for name, timings in part.members.items() for t in timings]
    rows = [
        (
            name,
            str(t.batch),
            seconds_text(t.latency_s.median),
            seconds_text(t.latency_s.p95),
            f"{t.per_second:.3g}" if t.per_second < 1000 else f"{t.per_second:.0f}",
            seconds_text(t.prepare_s) if t.prepare_s else "",
        )
        for name, t in named
    ]
    print_table(("time of a batch", "batch", "median", "p95", "images/s", "prepare"), rows)
    decoding = next((t for part in found for timings in part.members.values() for t in timings), None)
    if decoding is not None and decoding.decode_s:
        print_line(f"decoding {decoding.batch} of the images: {seconds_text(decoding.decode_s)}")
    noisy = [(t.latency_s.noise, name, t.batch) for name, t in named if (t.latency_s.noise or 0) > _NOISY]
    if noisy:
        noise, name, batch = max(noisy)
        print_note(
            f"measuring: the machine was not quiet: medians moved by up to {100 * (noise or 0):.0f} % "
            f"({name}, batch {batch}), {len(noisy)} of {len(named)} times by more than {100 * _NOISY:.0f} %; "
            "measure again when nothing else runs"
        )


def shortened(text: str, most: int, *, keep_end: bool = False) -> str:
    """Cut a text that is longer than `most`."""
    if len(text) <= most:
        return text
    return "…" + text[len(text) - most + 1 :] if keep_end else text[: most - 1] + "…"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, files: bool = False) -> None:
    """Print aligned columns: the first to the left, the others to the right; wide names are cut to fit.

    Args:
        header: Above the columns.
        rows: As many cells each.
        files: The first column names files, of which the end says most.
    """
    if not rows:
        return
    widths = [max(len(row[j]) for row in [header, *rows]) for j in range(len(header))]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(12, 80 - rest))
    for row in [header, ["-" * width for width in widths], *rows]:
        first = shortened(row[0], widths[0], keep_end=files)
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *others]).rstrip())  # noqa: T201


Advance = Callable[[int, str], None]


@contextmanager
def phases(*, quiet: bool = False) -> Iterator[Callable[[str, int], Advance]]:
    """Show long work that has several parts: each has a bar of its own, after that of the one before.

    Yields:
        A function of a part's name and its steps, which makes what `progress` yields.
    """
    with ExitStack() as bars:

        def phase(name: str, steps: int) -> Advance:
            bars.close()
            return bars.enter_context(progress(name, steps, quiet=quiet))

        yield phase


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
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        # On narrow terminals only the words are cut.
        TextColumn("{task.fields[words]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task(description, total=total, words="")
        yield lambda done, words: bar.update(task, advance=done, words=words)


def _left(n: float, per_s: float) -> str:
    """Say how long n more take, or nothing when none are left."""
    if n <= 0 or per_s <= 0:
        return ""
    minutes, seconds = divmod(round(n / per_s), 60)
    return f"{minutes}:{seconds:02d} left"


def _lines(description: str, total: int, every_s: float = 10.0) -> Advance:
    printed_s = time.monotonic()
    done, began = 0, (0, printed_s)

    def advance(more: int, words: str) -> None:
        nonlocal done, began, printed_s
        now_s = time.monotonic()
        if (
            not done
        ):  # what an earlier run had done comes at once, and says nothing of how long the rest takes
            began = (more, now_s)
        done += more
        if done >= total or now_s - printed_s >= every_s:
            printed_s = now_s
            left = _left(total - done, (done - began[0]) / max(now_s - began[1], 1e-9))
            print_note(", ".join(filter(None, [f"{description}: {done}/{total} {words}".rstrip(), left])))

    return advance
