"""The command line: one module per group of commands, each importing what it needs when it runs."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from encas.cli import (
    certify,
    conformance,
    demo,
    experiment,
    export,
    fronts,
    nat,
    pool,
    run,
    search,
    serve,
    setup,
)
from encas.cli.stores import copied
from encas.errors import EncasError


class _Group(TyperGroup):
    """Every error that a user can mend becomes one line on stderr and exit code 1."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List them in the order in which they are used."""
        order = (
            "demo",
            "pool",
            "nat",
            "experiment",
            "search",
            "pick",
            "evaluate",
            "plot",
            "export",
            "run",
            "measure",
            "serve",
            "conformance",
        )
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:
        try:
            with copied(sys.argv[1:] if args is None else args) as here:
                return super().main(here, *rest, **more)
        except EncasError as error:
            print(f"encas: {error}", file=sys.stderr)  # noqa: T201
            sys.exit(1)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (EncasError, OSError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            print(f"encas: {_one_line(error)}", file=sys.stderr)  # noqa: T201
            sys.exit(1)


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped; nothing half-written is left"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    return str(error)


app = typer.Typer(
    name="encas",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from encas import __version__

        print(f"encas {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_print_version, is_eager=True
    ),
) -> None:
    """Find, export and serve cascades of image classifiers that stop as soon as they are sure."""


for _module in (demo, pool, nat, experiment, search, fronts, certify, export, run, serve, conformance, setup):
    _module.register(app)
