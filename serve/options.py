"""How a server is started, and what it says when it is ready; all of it can be sent to another process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from encas.serve.access import Certificate, Tokens
from encas.serve.limits import Limits


@dataclass(frozen=True)
class Address:
    """Where a server that is ready can be asked, and for what."""

    http: str
    grpc: str | None
    models: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How to serve."""

    paths: tuple[Path, ...] = ()  # of bundles
    host: str = "127.0.0.1"
    port: int = 8000  # 0: a free one
    grpc_port: int | None = None  # None: no gRPC
    provider: str | None = None  # "cpu", "cuda" or "tensorrt"; None: what works
    # What was served already, and under which names: a worker that starts now does without what is gone.
    served: tuple[tuple[Path, str], ...] = ()
    repository: Path | None = None  # folder of bundles, all of which are served
    limits: Limits = field(default_factory=Limits)
    overload_status: int = 503
    tokens: Tokens = field(default_factory=Tokens)  # one of which a client must send; none: anybody may ask
    certificate: Certificate | None = None  # None: no TLS
    grace_s: float = 30.0  # for what was accepted before the server was asked to stop
    log_requests: bool = False
    workers: int = 1
    threads: int | None = None  # that the networks of a worker share; None: its share of the cores


Announce = Callable[[Address], None]
