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


class Connection:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.body = b""  # of the last answer that said how long it is

    async def ask(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        if "content-length:" in head:
            self.body = await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
        elif "chunked" in head:
            while (size := int((await reader.readline()).strip() or b"0", 16)) > 0:
                await reader.readexactly(size + 2)
            await reader.readline()
        if "connection: close" in head:
            self.close()
        return status

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


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
        except (OSError, asyncio.IncompleteReadError):
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
