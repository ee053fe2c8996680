"""The way of inference requests through HTTP: lean, and around the web framework.

FastAPI's routing costs as much as a small network does. This takes the two paths of inference, and leaves
everything else to the application, which documents these two as well.
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encas.bundle import Bundle
from encas.errors import TooLarge
from encas.serve.access import Tokens
from encas.serve.bodies import Bodies, Held
from encas.serve.model import INPUT, outputs_for
from encas.serve.protocol import (
    HEADER_LENGTH,
    InferRequest,
    decompress,
    encode_error,
    encode_response,
    parse_request,
)
from encas.serve.refusals import FAILED, ClientGone, Unauthorized, kind_of, message_of, status_of
from encas.serve.service import Question, Service

REASON = "encas-reason"  # header with the machine-readable reason of an error
REQUEST_ID = "x-request-id"
TRACE_HEADERS = ("traceparent", "tracestate")
# What tells nothing of the models: for those who watch over processes and have no token, and the page's own
# files, since a browser sends no token for them; the page then asks for one.
_OPEN = ("/v2/health/live", "/v2/health/ready", "/", "/page/page.css", "/page/page.mjs")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_LIGHT_BYTES = 16_384  # of JSON, which is read in the event loop
_HEADER_LENGTH = HEADER_LENGTH.lower()
_LOUD_BYTES = 1_000_000  # of outputs, from which on they are written in a thread

Headers = Mapping[str, str]


class Failed(Protocol):
    """Hears of failures that are the server's own."""

    def __call__(self, error: Exception) -> None:
        """Note it."""
        ...


class Door:
    """ASGI middleware that lets those in who have a token."""

    def __init__(self, app: ASGIApp, service: Service, tokens: Tokens) -> None:
        """Stand before an application.

        Args:
            app: Answers those who are let in.
            service: Counts those who are not.
            tokens: Open it.
        """
        self._app, self._service, self._tokens = app, service, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let somebody in, or answer before anything of the body is read."""
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
            if len(sent) > 1 or not self._tokens.allow(sent[0] if sent else None):
                await self._refuse(send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, send: Send) -> None:
        error = Unauthorized()
        with suppress(Unauthorized), self._service.observed(Question("rest", "", None)):
            raise error
        content = encode_error(message_of(error))
        headers = [
            *error_headers(error),
            (b"www-authenticate", b"Bearer"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": kind_of(error).status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class InferFront:
    """ASGI middleware that answers inference requests."""

    def __init__(self, app: ASGIApp, service: Service, overload_status: int, failed: Failed) -> None:
        """Stand before an application.

        Args:
            app: Gets everything else.
            service: Answers.
            overload_status: Of HTTP, for what is refused because a queue is full.
            failed: Told of errors that are nobody's fault but ours.
        """
        self._app, self._service, self._overload_status, self._failed = app, service, overload_status, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "POST" and (target := _INFER.fullmatch(scope["path"])):
            await self._infer(target[1], target[2], scope, receive, send)
            return
        request_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(b"x-request-id", request_id)] if request_id else []
                if self._service.draining:
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    async def _infer(
        self, model: str, version: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        traced = {name: headers[name] for name in TRACE_HEADERS if name in headers}
        question = Question("rest", model, version, headers.get(REQUEST_ID, ""), traced)
        more: list[tuple[bytes, bytes]] = []
        try:
            status, content, length = 200, *await self._answer(question, headers, receive)
            if length is not None:
                more.append((_HEADER_LENGTH.encode(), str(length).encode()))
        except ClientGone:
            return
        except Exception as error:
            if kind_of(error) is FAILED:
                self._failed(error)
            status = status_of(error, self._overload_status)
            content, length = encode_error(message_of(error)), None
            more += error_headers(error)
        if question.request_id:
            more.append((REQUEST_ID.encode(), question.request_id.encode("latin-1")))
        if self._service.draining:
            more.append((b"connection", b"close"))
        kind_of_content = b"application/json" if length is None else b"application/octet-stream"
        more += [(b"content-type", kind_of_content), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": more})
        await send({"type": "http.response.body", "body": content})

    async def _answer(
        self, question: Question, headers: Headers, receive: Receive
    ) -> tuple[bytes, int | None]:
        service = self._service
        with service.observed(question) as seen, service.bodies.held() as held:
            service.check(question.model, question.version)
            body = await read_body(receive, headers, service.limits.max_body_bytes, service.bodies, held)
            header_length, encoding = headers.get(_HEADER_LENGTH), headers.get("content-encoding")
            most = service.limits.max_body_bytes

            def parse(bundle: Bundle) -> InferRequest:
                plain, names = decompress(body, encoding, most), tuple(outputs_for(bundle))
                held.unpack(len(plain) - len(body) if plain is not body else 0)
                return parse_request(plain, header_length, input_name=INPUT, output_names=names)

            heavy = encoding is not None or _json_bytes(header_length, len(body)) > _LIGHT_BYTES
            answer = await until_gone(service.infer(question, parse, heavy=heavy), receive)
            seen.answer = answer

            def write() -> tuple[bytes, int | None]:
                file = answer.bundle.file
                return encode_response(answer.request, file.name, file.version, answer.outputs)

            if answer.outcome.answers.probs.nbytes < _LOUD_BYTES:
                return write()
            return await asyncio.get_running_loop().run_in_executor(service.pool, write)


async def read_body(receive: Receive, headers: Headers, max_bytes: int, bodies: Bodies, held: Held) -> bytes:
    """Read a body as it is, whatever its content type: clients of the protocol send none.

    Raises:
        TooLarge: It is, or says that it will be.
        SlowClient: It did not come in time.
        Overloaded: There is no memory for it.
        ClientGone: The client hung up.
    """
    said = headers.get("content-length", "")
    n_bytes, chunks, more = 0, [], True
    if said.isdigit() and int(said) > max_bytes:
        raise TooLarge(f"the body has {said[:20]} bytes; at most {max_bytes} are taken")
    async with bodies.coming(held):
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            n_bytes += len(chunks[-1])
            if n_bytes > max_bytes:
                raise TooLarge(f"the body has {n_bytes} bytes or more; at most {max_bytes} are taken")
            held.take(len(chunks[-1]))
            more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def until_gone(answering: Any, receive: Receive) -> Any:
    """Await an answer, and give it up when the client hangs up.

    Raises:
        ClientGone: It did.
    """
    task = asyncio.ensure_future(answering)
    watcher = asyncio.ensure_future(_hangs_up(receive))
    watcher.add_done_callback(lambda _watcher: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.done() and not watcher.cancelled():
            raise ClientGone from None
        task.cancel()
        raise
    finally:
        watcher.cancel()


async def _hangs_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def error_headers(error: Exception) -> list[tuple[bytes, bytes]]:
    """Headers that tell programs what went wrong."""
    kind = kind_of(error)
    headers = [(REASON.encode(), kind.reason.encode())]
    if kind.retry_after_s is not None:
        headers.append((b"retry-after", str(kind.retry_after_s).encode()))
    return headers


def _json_bytes(header_length: str | None, body_bytes: int) -> int:
    """Size of the JSON of a request, as far as its headers tell."""
    if header_length is None or not header_length.isdigit() or len(header_length) > 18:
        return body_bytes
    return min(int(header_length), body_bytes)
