"""The limits of one connection, on sockets, without a server around them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from encas.serve import connection
from encas.serve.connection import BoundedConnection, bounded

Ask = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def app(scope: Any, _receive: Any, send: Any) -> None:
    """Answers at once, with as many bytes as the path says."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a" * int(scope["path"][1:] or 0)})


def talk(ask: Ask, most: int = 10, n_clients: int = 1) -> None:
    """Let clients talk with connections that share a crowd."""

    async def main() -> None:
        config, state = uvicorn.Config(app, lifespan="off", ws="none", log_level=100), ServerState()
        config.load()
        kind: Any = bounded(BoundedConnection, most)
        server = await asyncio.get_running_loop().create_server(
            lambda: kind(config, state, {}), "127.0.0.1", 0
        )
        host, port = server.sockets[0].getsockname()
        async with asyncio.timeout(20):
            for _ in range(n_clients):
                await ask(*await asyncio.open_connection(host, port))
        server.close()

    asyncio.run(main())


def test_beyond_the_most_the_one_that_was_silent_for_longest_is_closed() -> None:
    clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append((reader, writer))
        await asyncio.sleep(0.01)
        if len(clients) == 2:  # the first one speaks, so the second is the longest silent
            clients[0][1].write(b"GET /3 HTTP/1.1\r\n\r\n")
            assert b"HTTP/1.1 200" in await clients[0][0].readuntil(b"aaa")
        if len(clients) == 3:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await clients[1][0].readexactly(1)
            clients[0][1].write(b"GET /4 HTTP/1.1\r\n\r\n")
            assert b"HTTP/1.1 200" in await clients[0][0].readuntil(b"aaaa")

    talk(ask, most=2, n_clients=3)


@pytest.mark.parametrize(
    "head", ["Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", "Transfer-Encoding: chunked\r\n\r\n1;"]
)
def test_trailers_and_comments_on_chunks_come_to_an_end(head: str) -> None:
    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"POST /1 HTTP/1.1\r\n{head}".encode())
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                writer.write(b"a" * 2**16)
                await writer.drain()
        del reader

    talk(ask)


@pytest.mark.slow
def test_a_body_of_crumbs_is_a_400() -> None:
    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The answer of this application does not wait for the body, which goes on behind it.
        writer.write(b"POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 6000)
        said = await reader.read()
        assert b"HTTP/1.1 400" in said and b'"error": "the body comes in too many chunks' in said

    talk(ask)


def test_the_rest_of_a_body_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_REST_S", 0.05)

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /1 HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
        with pytest.raises(ConnectionError):
            while await reader.read(1000):
                pass

    talk(ask)


@pytest.mark.slow
def test_an_answer_that_is_not_read_is_given_up_and_one_that_is_read_slowly_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_UNREAD_S", 0.2)

    async def unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /30000000 HTTP/1.1\r\n\r\n")
        await asyncio.sleep(1)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(30_000_000)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /10000000 HTTP/1.1\r\n\r\n")
        n_bytes = 0
        while n_bytes < 10_000_000:
            n_bytes += len(await reader.read(200_000))
            await asyncio.sleep(0.01)

    talk(unread)
    talk(slow)
