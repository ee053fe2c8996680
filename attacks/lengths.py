"""Requests whose length is told twice or wrongly, with a second request hidden behind the first."""

from target import Target, run

HIDDEN = "GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
HEADS = {
    "a length and chunks": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "chunks and a length": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "two lengths": "Content-Length: 5\r\nContent-Length: 50\r\n",
    "two lengths in one": "Content-Length: 5, 50\r\n",
    "a negative length": "Content-Length: -5\r\n",
    "a length with a sign": "Content-Length: +5\r\n",
    "a length in hexadecimal": "Content-Length: 0x5\r\n",
    "a length beyond all numbers": f"Content-Length: {10**30}\r\n",
    "a length that wraps around to 5": f"Content-Length: {2**64 + 5}\r\n",
    "a space before the colon": "Content-Length : 5\r\n",
    "a folded line": "Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n",
    "an unknown encoding": "Transfer-Encoding: xchunked\r\n",
    "two encodings": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "chunks that are not the last": "Transfer-Encoding: chunked, gzip\r\n",
    "a zero byte": "X: a\0b\r\nContent-Length: 5\r\n",
    "a bare carriage return": "X: a\rContent-Length: 50\r\nContent-Length: 5\r\n",
    "no name": ": x\r\nContent-Length: 5\r\n",
}
CHUNKS = {
    "no size": "\r\nabc\r\n0\r\n\r\n",
    "a negative size": "-1\r\na\r\n0\r\n\r\n",
    "a size beyond all numbers": "f" * 40 + "\r\na\r\n0\r\n\r\n",
    "a size with rubbish": "1x\r\na\r\n0\r\n\r\n",
    "more than the size": "1\r\nabc\r\n0\r\n\r\n",
}


def attempt(target: Target) -> None:
    """Send each of them; the hidden request must not be answered as one of its own."""
    for what, head in HEADS.items():
        said = target.send_raw((target.head() + head + "\r\n0\r\n\r\n" + HIDDEN).encode("latin-1"))
        check(what, said)
    for what, chunks in CHUNKS.items():
        head = target.head() + "Transfer-Encoding: chunked\r\n\r\n"
        check(what, target.send_raw((head + chunks + HIDDEN).encode("latin-1")))
    said = target.send_raw(f"{target.head()}Content-Length: {2**62}\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 413 "), f"an enormous length: {said[:100]!r}"
    for nonsense in (
        b"\0" * 1000,
        b"\x16\x03\x01\x02\x00" * 50,
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        check(f"nonsense {nonsense[:8]!r}", target.send_raw(nonsense))


def check(what: str, said: bytes) -> None:
    """One refusal, and nothing behind it."""
    assert said.startswith(b"HTTP/1.1 4") or said == b"", f"{what}: {said[:200]!r}"
    assert b'{"live":' not in said, f"{what}: the hidden request was answered: {said[:300]!r}"


if __name__ == "__main__":
    run(attempt)
