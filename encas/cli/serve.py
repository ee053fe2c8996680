"""`encas serve`: bundles behind the Open Inference Protocol."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def serve_bundles(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Folders that 'encas export' wrote.")
    ],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, and says which.")] = 8000,
    provider: Annotated[
        str | None, typer.Option(help="cpu or cuda. The default is cuda if it works here, else cpu.")
    ] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="The largest request that is taken, in MiB.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Say in JSON where the server is.")] = False,
) -> None:
    r"""Serve bundles over HTTP (Open Inference Protocol), until Ctrl-C or SIGTERM.

    Example, with the bundle of 'encas demo':

    ```
    encas serve encas-demo/bundle

    curl http://127.0.0.1:8000/v2/models

    curl http://127.0.0.1:8000/v2/models/digits/infer \
      -H 'Inference-Header-Content-Length: 0' --data-binary @image.png
    ```

    The same in JSON, which takes several images and other forms of them (see /docs):

    ```
    echo '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1],
      "data": ["'$(base64 -w0 image.png)'"]}]}' |
    curl http://127.0.0.1:8000/v2/models/digits/infer --data-binary @-
    ```
    """
    from encas.serve import serve

    serve(
        bundles,
        announce=_announce_json if as_json else _announce,
        host=host,
        port=port,
        provider=provider,
        max_body_bytes=max_body_mb * 2**20,
    )


def _announce(address: str, models: tuple[str, ...]) -> None:
    from encas.cli.output import print_line

    print_line(f"encas: serving {', '.join(models)} at {address} (docs: /docs)")
    sys.stdout.flush()


def _announce_json(address: str, models: tuple[str, ...]) -> None:
    from encas.cli.output import print_json

    print_json({"address": address, "models": list(models)})
    sys.stdout.flush()


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("serve")(serve_bundles)
