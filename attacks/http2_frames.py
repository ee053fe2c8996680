"""Frames of HTTP/2 that keep a server busy for nothing: resets, pings, settings, heads without an end."""

import socket
import time
from struct import pack

from target import Target, run

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_HEADERS, END_STREAM = 4, 1
MOST_S = 20.0


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """Write a frame."""
    return pack(">I", len(content))[1:] + bytes([kind, flags]) + pack(">I", stream) + content


def literal(name: bytes, value: bytes) -> bytes:
    """Write a header that no table holds, both parts shorter than 127."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


def attempt(target: Target) -> None:
    """Send each flood on a connection of its own, for as long as the server takes it."""
    assert target.grpc, "name the server's address with --grpc"
    host, _, port = target.grpc.rpartition(":")
    address = (host.strip("[]"), int(port))
    streams = range(1, 40_001, 2)
    floods = {
        "resets": b"".join(
            frame(HEADERS, END_HEADERS, n, HEAD) + frame(RST_STREAM, 0, n, pack(">I", 8)) for n in streams
        ),
        "streams": b"".join(frame(HEADERS, END_HEADERS, n, HEAD) for n in streams),
        "pings": frame(PING, 0, 0, bytes(8)) * 50_000,
        "settings": frame(SETTINGS, 0, 0, pack(">HI", 4, 2**31 - 1)) * 50_000,
        "empty data": frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1) * 50_000,
        "windows": frame(WINDOW_UPDATE, 0, 0, pack(">I", 1)) * 50_000,
        "a head without an end": frame(HEADERS, 0, 1, HEAD)
        + frame(CONTINUATION, 0, 1, literal(b"x", b"a" * 100)) * 50_000,
        "a message of 4 GB": frame(HEADERS, END_HEADERS, 1, HEAD)
        + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff" + bytes(1000)),
        "a frame of 16 MB": pack(">I", 2**24 - 1)[1:] + bytes([DATA, 0]) + pack(">I", 1) + bytes(2**20),
        "no frames": bytes(2**20),
    }
    for what, content in floods.items():
        start_s = time.monotonic()
        with socket.create_connection(address, 10) as connection:
            connection.settimeout(5)
            try:
                connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + content)
                while connection.recv(2**16) and time.monotonic() - start_s < MOST_S:
                    connection.settimeout(0.5)
            except OSError:
                pass
        assert time.monotonic() - start_s < MOST_S, f"{what}: kept the server busy for {MOST_S} s"
    with socket.create_connection(address, 10) as connection:  # no HTTP/2 at all
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.settimeout(5)
        assert b"200" not in connection.recv(1000)[:20]


if __name__ == "__main__":
    run(attempt)
