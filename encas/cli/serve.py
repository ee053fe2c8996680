"""`encas serve`: bundles behind the Open Inference Protocol."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encas.cli.clusters import Ray, RayCommand, cluster_of

if TYPE_CHECKING:
    from encas.serve.options import Address, Announce, Options
    from encas.serve.scheduler import StageLimits


def serve_bundles(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[BUNDLE]...", help="Folders that 'encas export' wrote.", show_default=False),
    ] = None,
    *,
    repository: Annotated[
        Path | None,
        typer.Option(help="Folder of bundles; all are served, and clients may load newer versions by name."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, and says which.")] = 8000,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve gRPC too; 0 takes a free port.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads that compute in each process. The default is its share of the cores, which answers "
            "soonest.",
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(help="cpu, cuda or tensorrt. The default is cuda if it works here, else cpu."),
    ] = None,
    max_batch_size: Annotated[
        str, typer.Option(help="Samples that run together; 64,16: other numbers for later stages.")
    ] = "32",
    max_queue_delay_ms: Annotated[
        str, typer.Option(help="How long a sample may wait for others to join it, stage by stage.")
    ] = "0",
    max_queue_size: Annotated[
        str, typer.Option(help="Samples that may wait, stage by stage; more are refused.")
    ] = "512",
    request_timeout_s: Annotated[
        float, typer.Option(min=0.001, help="After so long without an answer a request fails (504).")
    ] = 30.0,
    gear_delay_ms: Annotated[
        float,
        typer.Option(
            min=1,
            help="Bundles with gears: so long a queue asks for the next cheaper one, twice as long for the "
            "one after it, and so on.",
        ),
    ] = 100.0,
    drift_rate: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="Most false alarms of drift in 2,000 samples of a gear; 0: do not test."
        ),
    ] = 0.001,
    recheck_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of requests of which a sample is run through all stages when there is time, to see "
            "whether the answer stays.",
        ),
    ] = 0.0,
    overload_status: Annotated[int, typer.Option(help="What a refused request gets: 503 or 429.")] = 503,
    max_body_mb: Annotated[int, typer.Option(min=1, help="The largest request that is taken, in MiB.")] = 64,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="The largest image that is decoded; four such in one request.")
    ] = 64.0,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Of HTTP, in each process; beyond them the idlest is closed.")
    ] = 1000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Tokens, one a line: clients must send one. ENCAS_TOKEN in the environment adds some."
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM), to serve over TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    grace_s: Annotated[
        float, typer.Option(min=1, help="How long accepted requests may take when the server is to stop.")
    ] = 30.0,
    log_requests: Annotated[bool, typer.Option(help="One line of JSON on stderr for every request.")] = False,
    ray: Ray = None,
    replicas: Annotated[
        str, typer.Option(help="On the cluster: of each bundle; 1-8: as many as the requests need.")
    ] = "1",
    replica_cores: Annotated[int, typer.Option(min=1, help="Of each replica.")] = 1,
    split_stages: Annotated[
        bool,
        typer.Option(
            "--split-stages",
            help="On the cluster: each member has replicas of its own, wherever there is room.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say in JSON where the server is.")] = False,
) -> None:
    r"""Serve bundles over HTTP and gRPC (Open Inference Protocol), until Ctrl-C or SIGTERM.

    Example, with the bundle of 'encas demo':

    ```
    encas serve encas-demo/bundle

    curl http://127.0.0.1:8000/v2/models

    curl http://127.0.0.1:8000/predict -F image=@image.png
    ```

    The same by the protocol, the image as it is, or in JSON, which takes several images and other forms of
    them (see /docs):

    ```
    curl http://127.0.0.1:8000/v2/models/digits/infer \
      -H 'Inference-Header-Content-Length: 0' --data-binary @image.png

    echo '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1],
      "data": ["'$(base64 -w0 image.png)'"]}]}' |
    curl http://127.0.0.1:8000/v2/models/digits/infer --data-binary @-
    ```
    """
    from encas.serve import Limits, Options, serve
    from encas.serve.access import Certificate, Tokens
    from encas.serve.gears import GearPolicy

    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together", param_hint="--tls-cert")
    if split_stages and ray is None:
        raise typer.BadParameter("needs a cluster: add --ray", param_hint="--split-stages")
    if overload_status not in (429, 503):
        raise typer.BadParameter("must be 503 or 429", param_hint="--overload-status")
    limits = Limits(
        _stages(max_batch_size, max_queue_delay_ms, max_queue_size),
        request_timeout_s,
        max_body_mb * 2**20,
        gears=GearPolicy(gear_delay_ms / 1e3),
        drift_rate=drift_rate,
        recheck_share=recheck_share,
        max_pixels=round(max_megapixels * 1e6),
        max_connections=max_connections,
    )
    options = Options(
        paths=tuple(bundles or ()),
        host=host,
        port=port,
        grpc_port=grpc_port,
        provider=provider,
        repository=repository,
        limits=limits,
        overload_status=overload_status,
        tokens=Tokens.read(token_file),
        certificate=None if tls_cert is None or tls_key is None else Certificate(tls_cert, tls_key),
        grace_s=grace_s,
        log_requests=log_requests,
        workers=workers,
        threads=threads,
    )
    _warn_of_open_doors(options)
    announce = _announce_json if as_json else _announce
    if ray is None:
        serve(options, announce)
        return
    _serve_on(ray, options, announce, replicas, replica_cores, split=split_stages)


def _serve_on(
    ray: str, options: "Options", announce: "Announce", replicas: str, cores: int, *, split: bool
) -> None:
    """Serve from here what replicas on a cluster answer."""
    from encas.errors import InvalidInput, require
    from encas.serve import serve

    least, _, most = replicas.partition("-")
    if not (least.isdigit() and (most or least).isdigit() and 1 <= int(least) <= int(most or least)):
        raise typer.BadParameter(f"{replicas!r}: must be as 2 or 1-8", param_hint="--replicas")
    if options.workers > 1 or options.repository is not None:
        raise InvalidInput("--ray: replicas take the place of --workers, and only named bundles are served")
    require("ray", "ray")
    from encas.serve.ray_app import Replicas, deployed

    with cluster_of(ray) as cluster:
        assert cluster is not None
        gpus = int(options.provider not in (None, "cpu"))
        wanted = Replicas(least=int(least), most=int(most or least), cores=cores, gpus=gpus, split=split)
        with deployed(cluster, options.paths, wanted, options.provider, options.limits) as there:
            serve(options, announce, there.start)


def _warn_of_open_doors(options: "Options") -> None:
    """Say so where everybody on the network may ask, or could read along."""
    if options.host in ("localhost", "::1") or options.host.startswith("127."):
        return
    open_to = "no --token-file, so anybody who reaches it may ask" if not options.tokens.digests else ""
    plain = "no --tls-cert, so tokens and images travel in the clear" if options.certificate is None else ""
    if open_to or plain:
        missing = "; ".join(part for part in (open_to, plain) if part)
        sys.stderr.write(f"encas: listening on {options.host}: {missing} (docs/security.md)\n")


def _stages(sizes: str, delays_ms: str, queues: str) -> "tuple[StageLimits, ...]":
    from encas.serve.scheduler import StageLimits

    lists = [
        _numbers(sizes, 1, "--max-batch-size"),
        _numbers(delays_ms, 0, "--max-queue-delay-ms"),
        _numbers(queues, 1, "--max-queue-size"),
    ]
    n_stages = max(map(len, lists))
    size, delay_ms, queue = (numbers + numbers[-1:] * (n_stages - len(numbers)) for numbers in lists)
    return tuple(StageLimits(int(size[j]), delay_ms[j] / 1e3, int(queue[j])) for j in range(n_stages))


def _numbers(text: str, least: float, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(least <= number < 1e9 for number in numbers):
        raise typer.BadParameter(f"{text!r}: must be numbers from {least:g}, as 8 or 32,8", param_hint=option)
    return numbers


def _announce(address: "Address") -> None:
    from encas.cli.output import print_line

    grpc = f", gRPC at {address.grpc}" if address.grpc else ""
    print_line(f"encas: serving {', '.join(address.models)} at {address.http} (docs: /docs){grpc}")
    sys.stdout.flush()


def _announce_json(address: "Address") -> None:
    from encas.cli.output import print_json

    print_json({"address": address.http, "grpc": address.grpc, "models": list(address.models)})
    sys.stdout.flush()


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("serve", cls=RayCommand)(serve_bundles)
