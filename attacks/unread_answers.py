"""Clients that ask for much and read nothing."""

import select
import time
from socket import SO_RCVBUF, SOL_SOCKET, create_connection, socket

from target import Target, run

N_CLIENTS, MOST_S = 20, 90.0


def attempt(target: Target) -> None:
    """Ask for the document again and again on each connection; the server must give them up."""
    one = f"{target.head('/openapi.json', 'GET')}\r\n".encode()
    clients: list[socket] = []
    for _ in range(N_CLIENTS):
        client = create_connection((target.host, target.port))
        client.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        client.sendall(one * 400)
        clients.append(client)
    deadline_s, left = time.monotonic() + MOST_S, set(clients)
    while left and time.monotonic() < deadline_s:
        poll = select.poll()
        for client in left:
            poll.register(client, 0)  # errors and hang-ups only
        broken = {number for number, _ in poll.poll(1000)}
        left = {client for client in left if client.fileno() not in broken}
    for client in clients:
        client.close()
    assert not left, f"{len(left)} of {N_CLIENTS} were still waited for after {MOST_S:.0f} s"


if __name__ == "__main__":
    run(attempt)
