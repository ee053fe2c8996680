"""`encas conformance`: which sentences of the Open Inference Protocol a server keeps."""

from typing import Annotated

import typer


def conformance(
    url: Annotated[str, typer.Argument(help="Root of a server, as http://localhost:8000.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="Model to ask; by default the first that the server lists.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a server, of whatever make, which sentences of the Open Inference Protocol it keeps.

    The exit code is 0 if it keeps all of them, and 1 if not; extensions that it does not list are left out.

    Example:
    ```
    encas conformance http://localhost:8000
    ```
    """
    from encas.cli.output import print_json, print_line, print_table
    from encas.serve.conformance import check
    from encas.serve.peer import Peer

    verdicts = list(check(Peer(url, model)))
    broken = sum(verdict.kept is False for verdict in verdicts)
    if as_json:
        print_json(
            {
                "url": url,
                "kept": sum(verdict.kept is True for verdict in verdicts),
                "broken": broken,
                "sentences": [vars(verdict) for verdict in verdicts],
            }
        )
    else:
        words = {True: "yes", False: "NO", None: "-"}
        print_table(["sentence", "kept"], [[one.sentence, words[one.kept]] for one in verdicts])
        for one in verdicts:
            if one.kept is False:
                print_line(f"{one.sentence}: found {one.found}")
        print_line(f"{broken} of {len(verdicts)} sentences are not kept")
    if broken:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("conformance")(conformance)
