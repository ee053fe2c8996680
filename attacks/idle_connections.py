"""More connections than a server takes, on which nothing is asked, or half a head."""

import time
from socket import socket

from target import Target, run

N_CLIENTS = 1500


def attempt(target: Target) -> None:
    """Open them, and hold them; others must find a place."""
    clients: list[socket] = []
    try:
        for i in range(N_CLIENTS):
            client = target.connect()
            if i % 2:
                client.sendall(b"GET /v2/models HTTP/1.1\r\nX: ")
            clients.append(client)
        time.sleep(2)
        n_open = sum(is_open(client) for client in clients)
        assert n_open < N_CLIENTS, "all of them are held"
    finally:
        for client in clients:
            client.close()


def is_open(client: socket) -> bool:
    """Whether the server has not closed it."""
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    run(attempt)
