"""What stands before the calls of gRPC: tokens, and the time, the memory and the parts of messages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from encas.errors import InvalidInput, TooLarge
from encas.serve.access import Tokens
from encas.serve.bodies import Bodies, Held
from encas.serve.refusals import ClientGone, Unauthorized

_HEALTH = "/grpc.health.v1.Health/"  # asked by those who watch over processes and have no token
# Every part of a message becomes an object of a hundred bytes, and may be of two: so few are taken.
MOST_PARTS = 100_000
# Messages whose parts are looked into: the number of a field -> the message in it, by the protocol's table.
_INPUT, _CONTENTS, _OTHER = "input", "contents", "other"
_INSIDE: dict[str, dict[int, str]] = {
    "ModelInfer": {4: _OTHER, 5: _INPUT, 6: _OTHER},
    _INPUT: {4: _OTHER, 5: _CONTENTS},
    _CONTENTS: {},
    _OTHER: {},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Continue = Callable[[Any], Awaitable[Any]]


class Door(grpc.aio.ServerInterceptor):
    """Lets those in who have a token."""

    def __init__(self, tokens: Tokens, refuse: Callable[[Any, Exception], Awaitable[None]]) -> None:
        """Stand before a server.

        Args:
            tokens: Open it.
            refuse: Ends a call with an error.
        """
        self._tokens = tokens

        async def refused(_messages: Any, context: Any) -> None:
            await refuse(context, Unauthorized())

        # As if of a stream, of which nothing is read.
        self._refused: Any = grpc.stream_unary_rpc_method_handler(refused)

    async def intercept_service(self, continuation: Continue, handler_call_details: Any) -> Any:
        """Find the handler of a call."""
        sent = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        is_open = handler_call_details.method.startswith(_HEALTH)
        if is_open or (len(sent) < 2 and self._tokens.allow(sent[0] if sent else None)):
            return await continuation(handler_call_details)
        return self._refused


async def read_message(messages: AsyncIterator[bytes], bodies: Bodies, held: Held) -> bytes:
    """Read the one message of a call, which gRPC by itself would wait for without an end.

    Raises:
        ClientGone: There is none.
        SlowClient: It does not come in time.
        Overloaded: There is no memory for it.
    """
    async with bodies.coming(held):
        async for message in messages:
            held.take(len(message))
            return message
    raise ClientGone


def check_parts(name: str, message: bytes) -> None:
    """Count the parts of a message before any of them is made.

    Args:
        name: Of the call.
        message: As it came.

    Raises:
        TooLarge: There are more than `MOST_PARTS`.
        InvalidInput: It is no message.
    """
    try:
        _count(memoryview(message), name if name in _INSIDE else _OTHER, 0)
    except IndexError:
        raise InvalidInput("request: no message of protobuf") from None


def _count(message: memoryview, kind: str, n_parts: int) -> int:
    inside, at = _INSIDE[kind], 0
    while at < len(message):
        n_parts += 1
        if n_parts > MOST_PARTS:
            raise TooLarge(f"request: more than {MOST_PARTS} parts; send tensors as raw_input_contents")
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise IndexError
            if tag >> 3 in inside:
                n_parts = _count(message[at : at + size], inside[tag >> 3], n_parts)
            at += size
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:  # groups, which the protocol has none of
            raise IndexError
    return n_parts


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
