"""One connection of HTTP that cannot hold the server up, whatever it sends or leaves unread."""

import asyncio
import json
import math
import socket
import struct
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# What is neither a head nor a body: headers behind a body, which nothing here reads, comments on chunks, and
# empty lines.
_MOST_USELESS_BYTES = 2**19
# Chunks cost time by number, and bytes by the size of what has come before: small ones are for few bytes.
_MANY_CHUNKS, _SMALL_BYTES = 5_000, 128
_REST_S = 5.0  # for the rest of a body after its request was answered
# A client that reads less of its answer than this in this time has gone, or wants to hold memory.
_UNREAD_S, _READ_BYTES = 30.0, 30_000


def _answer(status: str, reason: str, message: str) -> bytes:
    body = json.dumps({"error": message})
    return (
        f"HTTP/1.1 {status}\r\nConnection: close\r\nRetry-After: 1\r\nencas-reason: {reason}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


_FULL = _answer(
    "503 Service Unavailable", "connections", "the server has too many connections; ask again later"
)
_CRUMBS = _answer("400 Bad Request", "invalid", "the body comes in too many chunks of a few bytes")


class Crowd:
    """The connections of a server."""

    def __init__(self, most: int) -> None:
        """Have none.

        Args:
            most: Beyond so many, the one that has asked nothing for longest has to go.
        """
        self.most = most
        self.n = 0
        self.silent: dict[BoundedConnection, None] = {}  # without a request in work; the longest first


class _Joining:
    """A transport that sends the head of an answer together with what follows at once.

    uvicorn writes head and body by themselves, and each would be a system call, a packet, and a client that
    is woken.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.writelines([head, data])
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)  # where the body takes its time
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.write(head)


class BoundedConnection(HttpToolsProtocol):
    """A connection with limits; `crowd` belongs to a subclass, one for each server."""

    crowd = Crowd(1000)
    _useless_bytes = _n_chunks = _chunk_bytes = 0
    _body_comes = _useful = False
    _running: RequestResponseCycle | None = None
    _rest: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room, where there is none."""
        super().connection_made(cast(asyncio.Transport, _Joining(transport, self.loop)))
        self.crowd.n += 1
        if self.crowd.n > self.crowd.most:
            longest = next(iter(self.crowd.silent), None)
            if longest is None:
                transport.write(_FULL)
                transport.close()
                return
            del self.crowd.silent[longest]
            longest.abort()
        self.crowd.silent[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Be forgotten."""
        self.crowd.n -= 1
        self.crowd.silent.pop(self, None)
        self._stop(self._rest)
        self._stop(self._unread)
        self._forget_requests()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give up who sends what nobody needs."""
        self._useful = False
        super().data_received(data)
        self._useless_bytes = 0 if self._useful else self._useless_bytes + len(data)
        if self._useless_bytes > _MOST_USELESS_BYTES:
            self.abort()

    def on_message_begin(self) -> None:
        """Note that a head begins; how long it may be is looked at elsewhere."""
        self._useful = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that a request is in work."""
        super().on_headers_complete()
        self.crowd.silent.pop(self, None)
        self._body_comes = True
        self._n_chunks = self._chunk_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Pass over what comes behind a body."""
        if not self._body_comes:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Give up a body of crumbs."""
        self._useful = True
        self._n_chunks += 1
        self._chunk_bytes += len(body)
        if self._n_chunks > _MANY_CHUNKS and self._chunk_bytes < _SMALL_BYTES * self._n_chunks:
            self.transport.write(_CRUMBS)
            self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the body is over."""
        self._useful = True  # a body in chunks ends with bytes that are none of it
        self._body_comes = False
        self._stop(self._rest)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, and not for ever for the rest of this one."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._body_comes:
            self._stop(self._rest)
            self._rest = self.loop.call_later(_REST_S, self.abort)
        if self.cycle.response_complete:
            self.crowd.silent[self] = None

    def pause_writing(self) -> None:
        """Wait for the client to read, and not for ever."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        self._stop(self._unread)

    def _watch_reading(self, before: float = math.inf) -> None:
        self._stop(self._unread)
        size = self.transport.get_write_buffer_size()
        if before - size < _READ_BYTES:
            self.abort()
        else:
            self._unread = self.loop.call_later(_UNREAD_S, self._watch_reading, size)

    def abort(self) -> None:
        """Close at once, and forget what was not sent, the system's part of it too."""
        self._forget_requests()
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _forget_requests(self) -> None:
        """Let nothing more be written: not for the one in work, nor for those that wait behind it."""
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def bounded(kind: type[BoundedConnection], most: int) -> type[asyncio.Protocol]:
    """Return the same kind of connection with a crowd of its own."""
    return cast(type[asyncio.Protocol], type(kind.__name__, (kind,), {"crowd": Crowd(most)}))
