"""Running the application: its sockets, its signals, and what its user sees."""

import asyncio
import ctypes
import gc
import importlib.util
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import uvicorn
from fastapi import FastAPI

from encas.bundle import Bundle
from encas.errors import EncasError, InvalidInput
from encas.runtime.executor import CascadeExecutor, open_executor
from encas.runtime.machine import usable_cores
from encas.runtime.session import sleeping_threads
from encas.serve.app import create_app
from encas.serve.connection import BoundedConnection, bounded
from encas.serve.grpc_server import GrpcServer
from encas.serve.limits import Limits
from encas.serve.logs import RequestLog
from encas.serve.models import Start, newest_bundles
from encas.serve.options import Address, Announce, Options
from encas.serve.service import Control, Observer, Service
from encas.serve.workers import supervise

# How long a server that is asked to stop goes on taking connections: whoever balances the load sees meanwhile
# that it is not ready, and clients are told to leave their connections.
DRAIN_S = 0.5
_KEEP_ALIVE_S = 75  # longer than clients and proxies wait, so that they and not we close what is idle
_MAX_HEAD_BYTES = 2**16
_HEAD_S = 10.0  # for the head of a request, from its first byte on
_HEAD_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"encas-reason: slow_client\r\n\r\n"
)
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
_TRIM_TICKS = 100  # of 0.1 s
# GNU's allocator keeps what a large request has needed; this gives it back to the system.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_OTHER_FILES = 1024  # besides the connections of HTTP: those of gRPC, and what is being greeted by TLS
_SETTLE_S = 0.05  # for what has reached an open connection, and was not read yet


def serve(options: Options, announce: Announce, start: Start | None = None) -> None:
    """Serve bundles until SIGINT or SIGTERM.

    Args:
        options: What, where and how.
        announce: Told where the server is, once all models can be asked.
        start: Finds who answers for a bundle, where that is not this process; only of one worker.

    Raises:
        InvalidInput: A bundle that is not whole, two of one name and version, a provider that does not work,
            or an address that cannot be had.
    """
    if options.certificate is not None:
        options.certificate.check()
    _allow_files(options.limits.max_connections)
    if options.repository is not None:
        options = replace(options, paths=(*options.paths, *newest_bundles(options.repository)))
    with listening(options.host, options.port) as listener:
        if options.workers > 1:
            supervise(options, listener, announce)
        else:
            run_worker(options, listener, announce, start=start)


def run_worker(
    options: Options,
    listener: socket.socket,
    announce: Announce,
    attach: Callable[[Service], Control] | None = None,
    start: Start | None = None,
) -> None:
    """Serve in this process.

    Args:
        options: As `serve`.
        listener: Where HTTP is listened on.
        announce: As `serve`.
        attach: Says how models are loaded where other processes have to load them too.
        start: As `serve`.
    """
    sleeping_threads(options.threads or max(1, usable_cores() // options.workers))
    failures: list[Exception] = []
    address = _address(listener, options)
    bundles, lost = _bundles(options)

    def loaded(failure: Exception | None) -> None:
        if failure is not None:
            failures.append(failure)
            server.should_exit = True
        elif not server.should_exit:  # a signal may have come first
            _forget_garbage()
            announce(Address(address, server.grpc_address, tuple(app.state.service.models.names)))

    observers: list[Observer] = _tracing()
    if options.log_requests:
        observers.append(RequestLog())
    app = create_app(
        bundles,
        load=lambda bundle: warm_executor(bundle, options.provider, options.limits),
        loaded=loaded,
        limits=options.limits,
        repository_path=options.repository,
        overload_status=options.overload_status,
        tokens=options.tokens,
        observers=observers,
        start=start,
    )
    app.state.service.models.lost |= lost
    if attach is not None:
        app.state.service.control = attach(app.state.service)
    server = Server(app, options)
    server.run(sockets=[listener])
    failures += server.failures
    if failures:
        raise failures[0]


def _allow_files(n_connections: int) -> None:
    """Let the process have a file for each connection, as far as the system grants it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _most_connections(options: Options) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return options.limits.max_connections
    return max(1, min(options.limits.max_connections, soft - _OTHER_FILES // 4))


def _bundles(options: Options) -> tuple[list[Bundle], dict[str, str]]:
    """Open the bundles; of those that were served before, name the models that are gone, and say why.

    Raises:
        InvalidInput: One that was not served before is not whole, or none is.
    """
    served, bundles, lost = dict(options.served), [], {}
    for path in options.paths:
        try:
            bundles.append(Bundle.open(path))
        except EncasError as error:
            if path not in served:
                raise
            lost[served[path]] = str(error)
    if lost and not bundles:
        raise InvalidInput(next(iter(lost.values())))
    for name, failure in lost.items():
        sys.stderr.write(f"encas: worker {os.getpid()} serves without '{name}': {failure}\n")
    return bundles, lost


def warm_executor(bundle: Bundle, provider: str | None, limits: Limits) -> CascadeExecutor:
    """Open a bundle, and run it once, so that the first requests do not wait for memory and compilers."""
    executor = open_executor(bundle, provider, limits=limits.images)
    try:
        for gear in (executor, *map(executor.geared, bundle.cheaper)):
            n_stages = len(gear.bundle.cascade.stages)
            gear.warm_up(max(stage.max_batch_size for stage in limits.of(n_stages)))
    except BaseException:
        executor.close()
        raise
    return executor


def _forget_garbage() -> None:
    """Keep the collector from looking, again and again and for 0.1 s, through what is here to stay."""
    gc.collect()
    gc.freeze()


def _tracing() -> list[Observer]:
    """Make spans where OpenTelemetry is installed."""
    if importlib.util.find_spec("opentelemetry") is None:
        return []
    from encas.serve.traces import Spans  # noqa: PLC0415

    return [Spans()]


class _Connection(BoundedConnection):
    """A connection that is not closed between the first byte of a request and its answer.

    But for a head that does not end, or not soon: uvicorn limits only how long a connection may be idle
    after an answer.
    """

    _heard = False
    _begun = False  # a head
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, but not for ever."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(_KEEP_ALIVE_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse a head that does not end."""
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._begun else 0
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(_HEAD_TOO_LARGE)
        elif not self._begun and (self._useful or self._body_comes):
            self._stop_waiting()
            if self._idle and not self._body_comes:  # the rest of a body whose request was answered before
                self._timer = self.loop.call_later(_KEEP_ALIVE_S, self.transport.close)
        elif not self._begun and not self._idle:
            self._stop_waiting()
        elif self._timer is None or not self._heard:  # a head has begun, or empty lines stand before it
            self._stop_waiting()
            self._timer = self.loop.call_later(_HEAD_S, self._too_slow)
        self._heard = True

    @property
    def _idle(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self._idle:
            self._refuse(_HEAD_TOO_SLOW)
        else:  # a second head, while the first request is being answered
            self._timer = self.loop.call_later(_HEAD_S, self._too_slow)

    def _refuse(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Note that a request begins, and has the time of a head from now on."""
        self._begun = True
        self._stop_waiting()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start to answer: from here on the base class knows of the request."""
        super().on_headers_complete()
        self._begun = False
        self._stop_waiting()

    def shutdown(self) -> None:
        """Close when nothing is under way; the application closes it after an answer."""
        if not self._begun:
            super().shutdown()


class Server(uvicorn.Server):
    """Stops in good order: first not ready, then closed to new connections, then everything answered."""

    def __init__(self, app: FastAPI, options: Options) -> None:
        """Make it; `run` opens the sockets."""
        certificate = options.certificate
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded(_Connection, _most_connections(options)),
                lifespan="on",
                ws="none",
                log_level="error",  # of warnings, whoever sends nonsense could fill a disk with
                proxy_headers=False,  # nothing here depends on who asks
                ssl_certfile=None if certificate is None else certificate.chain,
                ssl_keyfile=None if certificate is None else certificate.key,
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(options.grace_s)),
            )
        )
        self.failures: list[Exception] = []
        self.grpc_address: str | None = None
        self._options, self._service = options, app.state.service
        self._statistics, self._metrics = app.state.statistics, app.state.metrics
        self._grpc: GrpcServer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop in good order, however often the signal comes; uvicorn would raise it once more."""
        self._service.draining = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the ports."""
        if self._options.grpc_port is not None:
            reuse_port = self._options.workers > 1
            self._grpc = GrpcServer(
                self._service,
                self._statistics,
                reuse_port=reuse_port,
                tokens=self._options.tokens,
                certificate=self._options.certificate,
            )
            try:
                port = await self._grpc.start(self._options.host, self._options.grpc_port)
            except InvalidInput as error:
                self.failures.append(error)
                self.should_exit = True
            else:
                host = self._options.host
                self.grpc_address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Do what is done every 0.1 s."""
        self._metrics.refresh()
        if counter % _TRIM_TICKS == 0 and _malloc_trim is not None:
            asyncio.get_running_loop().run_in_executor(None, _malloc_trim, 0)
        if self._grpc is not None and not self.should_exit:
            await self._grpc.tell()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer everything that was accepted."""
        self._service.draining = True
        if self._grpc is not None:
            await self._grpc.tell()
        await asyncio.sleep(0 if self.failures or not self._service.models.ready else DRAIN_S)
        stopping = [] if self._grpc is None else [self._grpc.stop(self._options.grace_s)]
        for server in self.servers:
            server.close()
        await asyncio.sleep(_SETTLE_S)
        await asyncio.gather(super().shutdown(sockets), *stopping)


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
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections inherit it
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def _address(listener: socket.socket, options: Options) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if options.certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
