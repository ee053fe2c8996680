"""Bodies that go on after their request was refused."""

import time

from target import Target, run

MOST_S = 15.0


def attempt(target: Target) -> None:
    """Send on after each refusal; the connection must not be kept for it."""
    for path in (f"/v2/models/nothing-{target.model}/infer", "/nothing", "/v2/models"):
        with target.connect() as connection:
            connection.settimeout(MOST_S)
            connection.sendall(f"{target.head(path)}Transfer-Encoding: chunked\r\n\r\n".encode())
            said = connection.recv(2**16)
            assert said.startswith(b"HTTP/1.1 4"), f"{path}: {said[:100]!r}"
            start_s, part = time.monotonic(), b"1000\r\n" + b"a" * 4096 + b"\r\n"
            try:
                while time.monotonic() - start_s < MOST_S:
                    connection.sendall(part)
                    time.sleep(0.01)
            except OSError:
                continue
        raise AssertionError(f"{path}: its body was still taken after {MOST_S} s")


if __name__ == "__main__":
    run(attempt)
