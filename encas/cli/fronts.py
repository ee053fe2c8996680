"""Commands around a front that was found: pick, evaluate and plot."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encas.cli.numbers import mmacs

if TYPE_CHECKING:
    from encas.cascade import Cascade, Evaluated
    from encas.interval import Interval
    from encas.pool import Pool

_FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def _number(text: str) -> float:
    """Read 3e8, 300000000 or 300M."""
    digits, factor = (text[:-1], _FACTORS[text[-1]]) if text[-1:] in _FACTORS else (text, 1.0)
    try:
        value = float(digits) * factor
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"'{text}' is no positive number; write it as 3e8 or 300M")
    return value


FrontPath = Annotated[Path, typer.Argument(metavar="FRONT", help="Folder that `encas search` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("pick")(pick)
    app.command("evaluate")(evaluate)
    app.command("plot")(plot)


def pick(
    front: FrontPath,
    max_macs: Annotated[
        float | None,
        typer.Option(parser=_number, metavar="MACS", help="At most this many a sample: 3e8 or 300M."),
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(parser=_number, metavar="MS", help="At most this long a sample (searched by latency)."),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="At least this share of right answers: 0.95.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("cascade.json"),
    as_json: Json = False,
) -> None:
    """Choose a cascade from a front: the most accurate within a budget, or the cheapest that is good enough.

    Example: encas pick front --max-macs 300M -o cascade.json
    """
    from encas.cli.output import print_json, print_line, print_next
    from encas.front import Front

    if max_macs is None and max_latency_ms is None and min_accuracy is None:
        raise typer.BadParameter("state a wish: --max-macs, --max-latency-ms or --min-accuracy")
    opened = Front.open(front)
    cascade = opened.pick(max_macs=max_macs, max_latency_ms=max_latency_ms, min_accuracy=min_accuracy)
    cascade.write(out)
    if as_json:
        print_json(cascade)
        return
    _print_picked(cascade, opened.file.split)
    print_line(f"wrote {out}")
    pool = _pool_of(cascade)
    if pool is not None and all("test" in pool.member(name).outputs for name in cascade.member_names):
        print_next("encas evaluate", out, "--split", "test")
    else:
        _print_next_export(cascade, pool, out)


def evaluate(
    cascade: Annotated[Path, typer.Argument(metavar="CASCADE", help="File that `encas pick` wrote.")],
    pool: Annotated[
        Path | None, typer.Option("--pool", metavar="POOL", help="The default is the cascade's own.")
    ] = None,
    split: Annotated[str, typer.Option(help="The labelled samples to count on.")] = "test",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the cascade with these figures to a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a cascade does on another split, beside the best single members and what was expected.

    Example: encas evaluate cascade.json --split test
    """
    from encas import Cascade
    from encas.cli.output import print_json, print_line, print_note
    from encas.evaluation import best_within, cheapest_reaching, evaluate_members, pool_of, with_interval
    from encas.evaluation import evaluate as evaluate_cascade

    read = Cascade.read(cascade)
    opened = pool_of(read, pool, cascade)
    if read.pool is not None and read.pool.sha256 != opened.sha256:
        print_note(f"{opened.path}: is not as it was when the cascade was found (members or outputs differ)")
    found = with_interval(evaluate_cascade(read, opened, split))
    members = evaluate_members(opened, split)
    within, reaching = best_within(members, found.macs), cheapest_reaching(members, found.accuracy)
    if out is not None:
        read.model_copy(update={"evaluated": {**read.evaluated, split: found}}).write(out)
    if as_json:
        named = {"no_more_cost": within, "no_less_accuracy": reaching}
        best = {
            key: name and {"member": name, **members[name].model_dump(mode="json")}
            for key, name in named.items()
        }
        print_json(
            {
                "cascade": found.model_dump(mode="json"),
                "split": split,
                "single_members": best,
                "gaps": {what: found.accuracy - before.accuracy for what, before in _before(read, split)},
            }
        )
        return
    rows = [("cascade", str(read), found)]
    if within is not None:
        rows.append(("best single member of no more cost", within, members[within]))
    if reaching is not None:
        rows.append(("cheapest single member of no less accuracy", reaching, members[reaching]))
    _print_cascades(rows)
    if within is None:
        print_line("no single member costs so little")
    if reaching is None:
        print_line("no single member is so accurate")
    for stage, fraction in zip(read.stages, found.exit_fractions, strict=True):
        print_line(f"  {fraction:7.2%} of the {found.n} samples leave after {stage.member}")
    if read.certificate is not None:
        print_line(f"guaranteed: {read.certificate}")
    _print_gaps(read, split, found)
    if out is not None:
        print_line(f"wrote {out}")
    _print_next_export(read, opened, out or cascade)


def plot(
    fronts: Annotated[list[Path], typer.Argument(metavar="FRONT...", help="Folders of `encas search`.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .png, or a .html that says what each point is.")
    ] = Path("fronts.png"),
    cascade: Annotated[
        Path | None, typer.Option("--cascade", metavar="CASCADE", help="A candidate to mark.")
    ] = None,
) -> None:
    """Draw fronts in one picture; those that only their seeds tell apart as their median and a band.

    Example: encas plot front-a front-b -o fronts.png
    """
    from encas import Cascade
    from encas.cli.output import print_line
    from encas.front import Front
    from encas.search.picture import draw_html, draw_png

    writers = {".png": draw_png, ".html": draw_html}
    if out.suffix not in writers:
        raise typer.BadParameter(f"'{out}': the picture's name must end in .png or .html")
    chosen = None if cascade is None else Cascade.read(cascade)
    writers[out.suffix]([Front.open(front) for front in fronts], out, chosen)
    print_line(f"wrote {out}")


def _pool_of(cascade: "Cascade") -> "Pool | None":
    """Open the pool that a cascade names, if it is still there."""
    from encas import Pool
    from encas.errors import InvalidInput

    try:
        return None if cascade.pool is None else Pool.open(cascade.pool.path)
    except InvalidInput:
        return None


def _print_next_export(cascade: "Cascade", pool: "Pool | None", file: Path) -> None:
    from encas.cli.output import allow_code, print_next

    print_next("encas export", file, *([] if pool is None else allow_code(pool, cascade.member_names)))


def _print_cascades(rows: list[tuple[str, str, "Evaluated"]]) -> None:
    from encas.cli.output import print_line

    for what, name, _ in rows:
        print_line(f"{what}: {name}")
    _print_figures([(what, found) for what, _, found in rows])


def _print_picked(cascade: "Cascade", split: str) -> None:
    """Print what a cascade does where it was searched, and on what was kept out of that."""
    from encas.cli.output import print_line

    reported = cascade.reported
    rows = [("searched on", cascade.evaluated[split])]
    if reported is not None:
        rows.insert(0, ("kept out of the search", reported))
    print_line(f"picked: {cascade}")
    _print_figures([(f"{found.n} samples of {split}, {what}", found) for what, found in rows])
    if reported is None:
        print_line(
            "nothing was kept out of the search: these figures flatter, the cascade was chosen by them"
        )
    elif reported.interval is not None:
        print_line(_expectation(reported.interval))


def _print_figures(rows: "list[tuple[str, Evaluated]]") -> None:
    from encas.cli.output import print_table

    print_table(
        ["", "accuracy", "MMACs a sample"],
        [[what, f"{found.accuracy:.2%}", mmacs(found.macs)] for what, found in rows],
    )


def _expectation(interval: "Interval") -> str:
    low, high = f"{interval.low:.2%}", f"{interval.high:.2%}"
    return f"expect {low} to {high} on {interval.n} new samples (in {interval.confidence:.0%} of all cases)"


def _before(cascade: "Cascade", split: str) -> "list[tuple[str, Evaluated]]":
    """Name what was counted in the search: on what was searched on, and on what was kept out."""
    searched = cascade.searched
    if searched is None or searched.split == split:
        return []
    found = {"searched on": searched.split, "kept out of the search": searched.report}
    return [(what, cascade.evaluated[key]) for what, key in found.items() if key in cascade.evaluated]


def _print_gaps(cascade: "Cascade", split: str, found: "Evaluated") -> None:
    """Print how far the figures of a split are from those that the cascade was chosen by."""
    from encas.cli.output import print_line, print_note

    if cascade.searched is not None and cascade.searched.split == split:
        print_note(f"{split}: the cascade was searched on this split, so these figures flatter")
    for what, before in _before(cascade, split):
        gap = 100 * (found.accuracy - before.accuracy)
        print_line(
            f"{before.n} samples {what}: {before.accuracy:.2%}; "
            f"the {found.n} of {split}: {found.accuracy:.2%}, {gap:+.2f} points"
        )
        if before.interval is not None:
            within = before.interval.low <= found.accuracy <= before.interval.high
            print_line(f"  {'as expected' if within else 'NOT as expected'}: {_expectation(before.interval)}")
