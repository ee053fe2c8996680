"""A small asyncio client for HTTP/1.1: the same for every server, closed loop or at a fixed rate."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Result:
    """What came back: seconds from sending to the last byte of the answer, by status."""

    seconds: float = 0.0
    latencies_s: dict[int, list[float]] = field(default_factory=dict)
    n_broken: int = 0

    def add(self, status: int, latency_s: float) -> None:
        self.latencies_s.setdefault(status, []).append(latency_s)

    @property
    def ok(self) -> list[float]:
        return sorted(self.latencies_s.get(200, []))

    @property
    def per_s(self) -> float:
        return len(self.ok) / self.seconds

    def quantile_ms(self, q: float, *statuses: int) -> float:
        values = sorted(x for status in statuses or (200,) for x in self.latencies_s.get(status, ()))
        return 1e3 * values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


@dataclass(frozen=True)
class Call:
    path: str
    headers: dict[str, str]
    body: bytes

    def encoded(self, host: str) -> bytes:
        head = [f"POST {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + self.body


class Connection(asyncio.Protocol):
    """One connection that is kept; a protocol of its own, since streams would cost as much as the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = b""
        self._n_bytes: int | None = None  # of head and body; None: as long as chunks come
        self._body_start = self._status = 0
        self._closes = False
        self.body = b""  # of the last answer that said how long it is

    async def ask(self, request: bytes) -> int:
        """Return the status of the answer, once its last byte is here."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._received, self._body_start = b"", 0
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed before the answer was whole"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._body_start and not self._read_head():
            return
        if self._n_bytes is None:
            complete = self._received.endswith(b"0\r\n\r\n")
        else:
            complete = len(self._received) >= self._n_bytes
        if complete and self._answer is not None and not self._answer.done():
            if self._n_bytes is not None:
                self.body = self._received[self._body_start :]
            if self._closes:
                self.close()
            self._answer.set_result(self._status)

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._received[:end].lower()
        self._body_start, self._status = end + 4, int(head[9:12])
        self._closes = b"connection: close" in head
        said = head.find(b"content-length:")
        self._n_bytes = None
        if said >= 0:
            self._n_bytes = self._body_start + int(head[said + 15 :].split(b"\r\n", 1)[0])
        elif b"chunked" not in head:
            self._n_bytes = self._body_start
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


async def closed_loop(port: int, requests: Sequence[bytes], concurrency: int, seconds: float) -> Result:
    """Let each of so many clients ask one request after the other."""
    result = Result()
    end_s = time.perf_counter() + seconds
    start_s = time.perf_counter()

    async def client(first: int) -> None:
        connection, i = Connection(port), first
        while time.perf_counter() < end_s:
            asked_s = time.perf_counter()
            status = await connection.ask(requests[i % len(requests)])
            result.add(status, time.perf_counter() - asked_s)
            i += concurrency
        connection.close()

    await asyncio.gather(*(client(i) for i in range(concurrency)))
    result.seconds = time.perf_counter() - start_s
    return result


def ignore(_number: int, _body: bytes) -> None:
    """Look at no answer."""


async def fixed_rate(
    port: int,
    requests: Sequence[bytes],
    per_s: float,
    seconds: float,
    answered: Callable[[int, bytes], None] = ignore,
) -> Result:
    """Send at a rate, whatever comes back: what users do who do not know of each other.

    `answered` is told the number of each request that was answered, and the body.
    """
    result, free, tasks = Result(), [], set()
    start_s = time.perf_counter()

    async def one(i: int) -> None:
        connection = free.pop() if free else Connection(port)
        asked_s = time.perf_counter()
        try:
            status = await connection.ask(requests[i % len(requests)])
            result.add(status, time.perf_counter() - asked_s)
            if status == 200:
                answered(i % len(requests), connection.body)
            free.append(connection)
        except OSError:
            result.n_broken += 1
            connection.close()

    n = 0
    while (now_s := time.perf_counter() - start_s) < seconds:
        for _ in range(int(now_s * per_s) - n):
            task = asyncio.create_task(one(n))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            n += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    result.seconds = time.perf_counter() - start_s
    for connection in free:
        connection.close()
    return result
