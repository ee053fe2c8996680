"""The server that is attacked, and the bystander whom it must go on answering.

Every file beside this one is an attempt: `python attacks/NAME.py http://127.0.0.1:8000` says whether the
server held. Attack only what is yours.
"""

import argparse
import http.client
import json
import os
import resource
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from urllib.parse import urlsplit

WAIT_S = 30.0
RAW = {"Inference-Header-Content-Length": "0"}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass
class Target:
    """A server that serves one model, at least."""

    url: str
    grpc: str | None = None
    token: str | None = None
    pid: int | None = None
    repository: Path | None = None
    requests: int = 1000  # of those attempts that take any number
    model: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Ask for a model."""
        parts = urlsplit(self.url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.model = json.loads(self.ask("GET", "/v2/models").body)["models"][0]

    @property
    def infer_path(self) -> str:
        """Where images are sent to."""
        return f"/v2/models/{self.model}/infer"

    @property
    def headers(self) -> dict[str, str]:
        """What opens the server."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask once, on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def infer(self, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask the model."""
        return self.ask("POST", self.infer_path, body, headers)

    def infer_json(self, value: object) -> Answer:
        """Ask the model in JSON."""
        return self.infer(json.dumps(value).encode())

    def connect(self) -> socket.socket:
        """Open a connection on which anything can be sent."""
        connection = socket.create_connection((self.host, self.port), WAIT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send_raw(self, content: bytes, wait_s: float = 10.0) -> bytes:
        """Send bytes as they are, and return all that comes until the server closes or says no more."""
        with self.connect() as connection:
            connection.settimeout(wait_s)
            said = b""
            try:
                connection.sendall(content)
                while part := connection.recv(65536):
                    said += part
                    connection.settimeout(0.3)
            except (TimeoutError, ConnectionError):
                pass
            return said

    def head(self, path: str | None = None, method: str = "POST") -> str:
        """Return the beginning of a request, to which more is added."""
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"{method} {path or self.infer_path} HTTP/1.1\r\nHost: x\r\n{more}"

    def resident_bytes(self) -> int:
        """Memory of the server's process and those it started, if its number is known."""
        if self.pid is None:
            return 0
        pids, total = [self.pid], 0
        for pid in pids:
            tasks = Path(f"/proc/{pid}/task")
            pids += [
                int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()
            ]
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return total


def png(width: int = 8, height: int = 8, value: int = 0) -> bytes:
    """Make a gray image of one colour."""
    row = b"\0" + bytes([value]) * width
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    """Make a part of a PNG file."""
    return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))


class Bystander:
    """Asks for an answer again and again while others attack."""

    def __init__(self, target: Target) -> None:
        """Know the server."""
        self._target, self._stop = target, threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.slowest_s, self.n_answers = 0.0, 0
        self.wrong: list[str] = []

    def __enter__(self) -> "Bystander":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(WAIT_S)

    def _ask(self) -> None:
        image = png()
        while not self._stop.is_set():
            start_s = time.monotonic()
            try:
                answer = self._target.infer(image, RAW)
                if answer.status != 200:
                    self.wrong.append(f"{answer.status}: {answer.body[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - start_s)
            self.n_answers += 1
            self._stop.wait(0.05)


def refused(answer: Answer, what: str) -> None:
    """Check that something was refused, in the protocol's form."""
    found = f"{what}: {answer.status} {answer.body[:200]!r}"
    assert 400 <= answer.status < 500, found
    assert list(json.loads(answer.body)) == ["error"], found


def run(attempt: Callable[[Target], None]) -> None:
    """Attack the server that the command line names, and say how it went; the exit code is 1 if it fell."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("url")
    parser.add_argument("--grpc", help="HOST:PORT")
    parser.add_argument("--token", help="that opens the server")
    parser.add_argument("--pid", type=int, help="of the server, to look at its memory")
    parser.add_argument("--repository", type=Path, help="the server's folder, on this machine")
    parser.add_argument("--requests", type=int, default=1000, help="where any number will do")
    target = Target(**vars(parser.parse_args()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    start_s = time.monotonic()
    try:
        with Bystander(target) as bystander:
            attempt(target)
        assert not bystander.wrong, f"a bystander was not answered: {bystander.wrong[:3]}"
        assert bystander.n_answers, "no bystander was answered"
        assert target.infer(png(), RAW).status == 200
    except AssertionError as error:
        sys.exit(f"FELL: {error}")
    print(
        f"held, {time.monotonic() - start_s:.1f} s; {bystander.n_answers} answers to a bystander, "
        f"the slowest after {bystander.slowest_s:.2f} s"
    )
