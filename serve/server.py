"""Running the application: its socket, its signals, and what its user sees."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.runtime.executor import CascadeExecutor
from encas.serve.app import create_app
from encas.serve.service import Limits

GRACE_S = 30  # for what was accepted before the server was asked to stop

Announce = Callable[[str, tuple[str, ...]], None]


class _Server(uvicorn.Server):
    """Survives the signals that stop it; uvicorn would raise them once more when it has stopped."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop in good order, however often the signal comes."""
        self.should_exit = True


def serve(
    paths: Sequence[Path],
    *,
    announce: Announce,
    host: str = "127.0.0.1",
    port: int = 8000,
    provider: str | None = None,
    max_body_bytes: int = 64 * 2**20,
) -> None:
    """Serve bundles until SIGINT or SIGTERM.

    Args:
        paths: Folders of bundles with different names.
        announce: Told the address and the names of the models, once all of them can be asked.
        host: Address to listen on.
        port: 0 takes a free one.
        provider: "cpu" or "cuda"; None takes what works.
        max_body_bytes: The largest body that is taken.

    Raises:
        InvalidInput: A bundle that is not whole, two of one name, a provider that does not work, or an
            address that cannot be had.
    """
    failures: list[Exception] = []
    with listening(host, port) as listener:
        address = _address(listener)
        bundles = [Bundle.open(path) for path in paths]

        def loaded(failure: Exception | None) -> None:
            if failure is not None:
                failures.append(failure)
                server.should_exit = True
            elif not server.should_exit:  # a signal may have come first
                announce(address, tuple(bundle.name for bundle in bundles))

        app = create_app(
            bundles,
            load=lambda bundle: CascadeExecutor(bundle, provider),
            loaded=loaded,
            limits=Limits(max_body_bytes=max_body_bytes),
        )
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = _Server(config)
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the address first: who connects while the bundles are read waits, instead of being refused."""
    if not 0 <= port < 2**16:
        raise InvalidInput(f"cannot listen on port {port}: it must be from 0 (a free one) to {2**16 - 1}")
    try:
        listener = _listen(host, port)
    except OSError as error:
        number = error.errno or 0  # below 0: of getaddrinfo
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise InvalidInput(
            f"cannot listen on {host}, port {port}: {reason}; choose others with --host and --port "
            "(port 0: a free one)"
        ) from None
    with listener:
        yield listener


def _listen(host: str, port: int) -> socket.socket:
    # The protocol is TCP's number and not 0 ("any that fits"), as socket.create_server would have it: asyncio
    # switches Nagle's algorithm off only then, and with it every answer takes 40 ms.
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
