"""Hundreds of clients that send a byte of their body now and then."""

import time
from socket import socket

from target import Target, run

N_CLIENTS = 700  # more than requests may be in work
AT_LEAST_S, AT_MOST_S = 8.0, 60.0  # the rest of a body is waited for beyond its request's time


def attempt(target: Target) -> None:
    """Be slow on every path that reads a body; others must be answered meanwhile."""
    paths = (
        target.infer_path,
        "/predict",
        "/v2/repository/index",
        f"/v2/repository/models/{target.model}/load",
    )
    clients: list[socket] = []
    try:
        for i in range(N_CLIENTS):
            client = target.connect()
            length = 40_000 if "repository" in paths[i % 4] else 1_000_000
            kind = "Content-Type: multipart/form-data; boundary=x\r\n" if i % 8 == 1 else ""
            head = f"{target.head(paths[i % 4])}{kind}Content-Length: {length}\r\n\r\n["
            client.sendall(head.encode())
            clients.append(client)
        start_s, n_closed = time.monotonic(), 0
        while (passed_s := time.monotonic() - start_s) < AT_LEAST_S or (
            n_closed < N_CLIENTS // 10 and passed_s < AT_MOST_S
        ):
            for client in list(clients):
                try:
                    client.sendall(b" ")
                except OSError:
                    n_closed += 1
                    clients.remove(client)
            time.sleep(0.5)
        assert n_closed >= N_CLIENTS // 10, f"only {n_closed} of {N_CLIENTS} slow clients were sent away"
    finally:
        for client in clients:
            client.close()


if __name__ == "__main__":
    run(attempt)
