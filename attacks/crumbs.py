"""Bodies in chunks of one byte, whose pieces would be put together again and again."""

import time

from target import Target, run


def attempt(target: Target) -> None:
    """Send four million chunks on ten connections; the server must give each of them up."""
    head = f"{target.head()}Transfer-Encoding: chunked\r\n\r\n".encode()
    crumbs = b"1\r\n[\r\n" * 20_000
    for _ in range(10):
        said, start_s = b"", time.monotonic()
        with target.connect() as connection:
            connection.settimeout(10)
            try:
                connection.sendall(head)
                for _ in range(20):
                    connection.sendall(crumbs)
                said = connection.recv(1000)
            except ConnectionError:
                said = said or b"HTTP/1.1 4 (closed)"
        assert said.startswith(b"HTTP/1.1 4"), f"crumbs: {said[:100]!r}"
        assert time.monotonic() - start_s < 10


if __name__ == "__main__":
    run(attempt)
