"""Heads, trailers and chunks that do not end."""

import time

from target import Target, run

MOST_BYTES = 16 * 2**20


def attempt(target: Target) -> None:
    """Send them until the server has had enough, which must be soon."""
    head = target.head()
    floods = {
        "one long header": (f"{head}X: ", b"a" * 2**16, 2**23),
        "many headers": (head, b"".join(b"X-%06d: 1\r\n" % i for i in range(5000)), 2**23),
        "a long path": ("GET /", b"a" * 2**16, 2**23),
        "trailers": (
            f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n",
            b"".join(b"X-%06d: 1\r\n" % i for i in range(5000)),
            2**23,
        ),
        "one long trailer": (f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"a" * 2**16, 2**23),
        "empty lines": ("", b"\r\n" * 2**15, 2**23),
    }
    for what, (begin, more, most) in floods.items():
        n_bytes = flood(target, begin.encode(), more, MOST_BYTES)
        assert n_bytes < most, f"{what}: {n_bytes} bytes were taken"
    # Upgrades that nobody offers, and methods that nobody knows.
    for line in ("Connection: Upgrade\r\nUpgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n"):
        said = target.send_raw(f"{target.head('/v2/models', 'GET')}{line}\r\n".encode())
        assert not said.startswith(b"HTTP/1.1 101") and said.startswith(b"HTTP/1.1"), said[:100]
    for method in ("TRACE", "CONNECT", "PROPFIND", "M-SEARCH"):
        said = target.send_raw(f"{target.head('/v2/models', method)}\r\n".encode())
        assert said.startswith(b"HTTP/1.1 4") or said == b"", f"{method}: {said[:100]!r}"
    # Five hundred small requests at once on one connection: none is lost, and nobody waits for them.
    one = f"{target.head('/v2/health/live', 'GET')}\r\n".encode()
    with target.connect() as connection:
        connection.sendall(one * 500)
        said, deadline_s = b"", time.monotonic() + 30
        while said.count(b"HTTP/1.1 200") < 500 and time.monotonic() < deadline_s:
            said += connection.recv(2**16)
    assert said.count(b"HTTP/1.1 200") == 500, f"{said.count(b'HTTP/1.1 200')} of 500 were answered"


def flood(target: Target, begin: bytes, more: bytes, most_bytes: int) -> int:
    """Send until the server closes, and return how many bytes that took."""
    n_bytes = 0
    with target.connect() as connection:
        connection.settimeout(10)
        try:
            connection.sendall(begin)
            while n_bytes < most_bytes:
                connection.sendall(more)
                n_bytes += len(more)
        except (ConnectionError, TimeoutError):
            pass
    return n_bytes


if __name__ == "__main__":
    run(attempt)
