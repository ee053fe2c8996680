"""Bodies that unpack to far more than was sent, or to nothing."""

import gzip
import zlib

from target import RAW, Target, refused, run


def attempt(target: Target) -> None:
    """Send them on the path that unpacks, many at a time."""
    zeros = zlib.compressobj(9, wbits=31)
    bomb = b"".join(zeros.compress(bytes(2**20)) for _ in range(256)) + zeros.flush()
    inner = gzip.compress(bomb)
    whole = gzip.compress(b'{"inputs": []}' + b" " * 2**20)
    bombs = {
        "256 MiB": (bomb, "gzip"),
        "256 MiB, packed twice": (inner, "gzip"),
        "two encodings": (inner, "gzip, gzip"),
        "truncated": (whole[: len(whole) // 2], "gzip"),
        "a wrong sum": (whole[:-8] + bytes(8), "gzip"),
        "rubbish behind": (whole + b"more", "gzip"),
        "two members": (whole + whole, "gzip"),
        "only a head": (whole[:10], "gzip"),
        "empty": (b"", "gzip"),
        "deflate without its head": (zlib.compress(bytes(2**20))[2:-4], "deflate"),
        "256 MiB, deflated": (deflated(), "deflate"),
        "another encoding": (b"x", "br"),
        "a long name of an encoding": (b"x", "x" * 10_000),
    }
    for what, (content, encoding) in bombs.items():
        for more in ({}, RAW):
            refused(target.infer(content, {"Content-Encoding": encoding, **more}), what)
    before = target.resident_bytes()
    for _ in range(20):
        assert target.infer(bomb, {"Content-Encoding": "gzip"}).status == 413
    grown = target.resident_bytes() - before
    assert grown < 300 * 2**20, f"twenty bombs have left {grown / 2**20:.0f} MiB"


def deflated() -> bytes:
    """Pack 256 MiB of zeros."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()


if __name__ == "__main__":
    run(attempt)
