"""The command that guarantees what early exits lose."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from encas.cascade import Cascade


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("certify")(certify)


def certify(
    cascade: Annotated[Path, typer.Argument(metavar="CASCADE", help="File that `encas pick` wrote.")],
    pool: Annotated[
        Path | None, typer.Option("--pool", metavar="POOL", help="The default is the cascade's own.")
    ] = None,
    risk: Annotated[float, typer.Option(help="Share of samples that may be lost.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="How sure it shall be; for learn-then-test.")] = 0.95,
    loss: Annotated[
        str,
        typer.Option(
            help="accuracy: all stages would be right, the cascade is not. consistency: it answers otherwise "
            "than all stages; needs no labels."
        ),
    ] = "accuracy",
    method: Annotated[
        str, typer.Option(help="learn-then-test, or conformal-risk-control: in the mean, without confidence.")
    ] = "learn-then-test",
    split: Annotated[
        str, typer.Option(help="Samples that the cascade was not chosen by; of a searched split, the rest.")
    ] = "test",
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("certified.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Move a cascade's thresholds to where a guarantee holds of what early exits lose.

    Example: encas certify cascade.json --risk 0.01 --confidence 0.95 -o certified.json
    """
    from encas import Cascade
    from encas.cli.output import print_json, print_next
    from encas.evaluation import pool_of
    from encas.search import certify as certify_cascade

    read = Cascade.read(cascade)
    opened = pool_of(read, pool, cascade)
    certified = certify_cascade(
        read,
        opened,
        risk=risk,
        confidence=confidence,
        loss=loss,  # type: ignore[arg-type]  # checked behind the door
        method=method,  # type: ignore[arg-type]
        split=split,
    )
    certified.write(out)
    if as_json:
        print_json(certified)
        return
    _print_certified(read, certified)
    print_next("encas export", out)


def _print_certified(before: "Cascade", after: "Cascade") -> None:
    from encas.cli.output import print_line, print_table

    certificate = after.certificate
    assert certificate is not None
    print_line(f"before: {before}")
    print_line(f"certified: {after}")
    print_line(f"guaranteed: {certificate}")
    rows = [("before", certificate.saving_before), ("certified", certificate.saving)]
    print_table(["", "of the cost of all stages saved"], [[name, f"{saved:.1%}"] for name, saved in rows])
