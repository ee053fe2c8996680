"""Many hostile requests of every kind: bad lengths, types and images, bombs, deep JSON, slow senders."""

import collections
import gzip
import json
import random
import socket
import threading
import time
import zlib

from target import Target, png, run

N_CLIENTS = 8
SLOW, BOMBS = 0.002, 0.01  # shares of requests that are sent slowly, and that cost much to find out
WARM_UP = 0.2  # share of requests after which memory is first looked at
SETTLE_S = 12.0  # until the server has given back what it does not need


class Hostile:
    """One client that sends hostile requests on connections that it keeps where it can."""

    def __init__(self, target: Target, seed: int) -> None:
        """Prepare what is sent."""
        self.target, self.random = target, random.Random(seed)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.wrong: list[str] = []
        self._connection: socket.socket | None = None
        whole, large = png(64, 64, 9), png(9000, 9000)
        zeros = gzip.compress(bytes(80 * 2**20), 9)
        tensor = {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [0, 1, 2, 3]}

        def body(**fields: object) -> bytes:
            return json.dumps({"inputs": [{**tensor, **fields}]}).encode()

        raw = {"Inference-Header-Content-Length": "0"}
        nan = body(datatype="FP32", data=[float("nan")] * 4)
        self._bomb = ("gzip bomb", zeros, {"Content-Encoding": "gzip"})
        self._kinds: list[tuple[str, bytes, dict[str, str]]] = [
            ("wrong dtype", body(datatype="FP64"), {}),
            ("wrong shape", body(shape=[9, 9, 9]), {}),
            ("NaN", nan, {}),
            ("numbers out of range", body(data=[0, 1, 2, 900]), {}),
            ("no base64", body(datatype="BYTES", shape=[1], data=["####"]), {}),
            ("deep JSON", b"[" * 20_000, {}),
            ("deep objects", b'{"a":' * 5_000, {}),
            ("no JSON", self.random.randbytes(500), {}),
            ("half of gzip", zeros[:1000], {"Content-Encoding": "gzip"}),
            ("no gzip", b"abc", {"Content-Encoding": "gzip"}),
            ("image bomb", large, raw),
            ("claimed pixels", whole[:16] + b"\x7f\xff\xff\xff" * 2 + whole[24:], raw),
            ("half of an image", whole[: len(whole) // 2], raw),
            ("text bomb", whole[:33] + zlib.compress(bytes(10**6)), raw),
            ("rubbish", self.random.randbytes(2000), raw),
            ("nothing", b"", raw),
            ("wrong length of the JSON", b"{}", {"Inference-Header-Content-Length": "77"}),
        ]

    def send(self, n_requests: int) -> None:
        """Send so many."""
        for _ in range(n_requests):
            draw = self.random.random()
            if draw < SLOW:
                self._slow()
            elif draw < SLOW + BOMBS:
                self._one(*self._bomb)
            elif draw < 0.05:
                self._bad_length()
            else:
                self._one(*self.random.choice(self._kinds))

    def _one(self, what: str, content: bytes, headers: dict[str, str]) -> None:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{self.target.head()}{more}Content-Length: {len(content)}\r\n\r\n"
        if self._connection is None:
            self._connection = self.target.connect()
        try:
            self._connection.sendall(head.encode() + content)
            status, keeps = read(self._connection)
        except OSError as error:
            self.wrong.append(f"{what}: {error!r}")
            self._connection = None
            return
        self.statuses[status] += 1
        if not 400 <= status < 500:
            self.wrong.append(f"{what}: {status}")
        if not keeps:
            self._connection.close()
            self._connection = None

    def _bad_length(self) -> None:
        length = self.random.choice(("-1", "1, 2", "0x10", str(2**64), "abc", "1\r\nContent-Length: 2"))
        said = self.target.send_raw(f"{self.target.head()}Content-Length: {length}\r\n\r\n{{}}".encode())
        self.statuses[int(said[9:12]) if said else 400] += 1
        if said and not said.startswith(b"HTTP/1.1 4"):
            self.wrong.append(f"length {length}: {said[:50]!r}")

    def _slow(self) -> None:
        with self.target.connect() as connection:
            connection.sendall(f"{self.target.head()}Content-Length: 1000\r\n\r\n".encode())
            for _ in range(5):
                connection.sendall(b"[")
                time.sleep(0.05)
        self.statuses[499] += 1  # gone before it was answered


def read(connection: socket.socket) -> tuple[int, bool]:
    """Read an answer: its status, and whether the connection stays."""
    said = b""
    while b"\r\n\r\n" not in said:
        part = connection.recv(2**16)
        if not part:
            raise ConnectionError("closed without an answer")
        said += part
    head, _, body = said.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    missing = int(fields[b"content-length"]) - len(body)
    while missing > 0 and (part := connection.recv(2**16)):
        missing -= len(part)
    return int(head[9:12]), fields.get(b"connection") != b"close"


def attempt(target: Target) -> None:
    """Send them from several clients; memory must come back to what it was after the first of them."""
    clients = [Hostile(target, seed) for seed in range(N_CLIENTS)]

    def together(n_requests: int) -> None:
        threads = [threading.Thread(target=c.send, args=(n_requests // N_CLIENTS,)) for c in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    together(round(WARM_UP * target.requests))
    time.sleep(SETTLE_S)
    before = target.resident_bytes()
    together(round((1 - WARM_UP) * target.requests))
    time.sleep(SETTLE_S)
    after = target.resident_bytes()
    statuses: collections.Counter[int] = sum((client.statuses for client in clients), collections.Counter())
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    wrong = [what for client in clients for what in client.wrong]
    assert not wrong, f"{len(wrong)} answers that blame nobody: {wrong[:3]}"
    if before:
        print(f"memory: {before / 2**20:.0f} MiB after the first fifth, {after / 2**20:.0f} MiB at the end")
        assert after < 1.05 * before, "memory has grown by more than 5 %"


if __name__ == "__main__":
    run(attempt)
