"""Messages of gRPC that are too large, of too many parts, never sent, or no messages at all."""

import threading
import time

import grpc
from target import Target, run

SERVICE = "/inference.GRPCInferenceService/"


def varint(number: int) -> bytes:
    """Write a number as protobuf does."""
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    """Write a part of a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(datatype: bytes, shape: tuple[int, ...], contents: bytes = b"") -> bytes:
    """Write an input."""
    sizes = b"".join(varint(3 << 3) + varint(size) for size in shape)
    return field(
        5, field(1, b"image") + field(2, datatype) + sizes + (field(5, contents) if contents else b"")
    )


def attempt(target: Target) -> None:
    """Send all of them; each must be refused with a status that blames the client."""
    assert target.grpc, "name the server's address with --grpc"
    metadata = [("authorization", f"Bearer {target.token}")] if target.token else []
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    model, mega = field(1, target.model.encode()), 2**20
    nan = b"\x00\x00\xc0\x7f" * 64
    messages = {
        "rubbish": b"\xff" * 1000,
        "half a message": field(5, b"abc")[:-1],
        "a number without an end": b"\x08" + b"\xff" * 100,
        "a group": b"\x0b\x0c",
        "deep messages": model + deep(5000),
        "millions of inputs": model + b"\x2a\x00" * (20 * mega),
        "millions of raw contents": model + b"\x3a\x00" * (20 * mega),
        "millions of parameters": model + b"".join(field(4, field(1, b"%d" % i)) for i in range(mega)),
        "millions of elements": model + tensor(b"BYTES", (1,), b"\x42\x00" * (20 * mega)),
        "millions of axes": model + tensor(b"UINT8", (1,) * mega),
        "a shape beyond all numbers": model + tensor(b"UINT8", (2**31 - 1,) * 8),
        "a negative shape": model + tensor(b"UINT8", (2**64 - 1, 8, 8)),
        "a datatype that is none": model + tensor(b"A" * mega, (1, 8, 8)),
        "another datatype": model + tensor(b"FP64", (1, 8, 8), field(7, bytes(512))),
        "NaN": model + tensor(b"FP32", (1, 1, 8, 8)) + field(7, nan),
        "more than the shape": model + tensor(b"UINT8", (1, 8, 8)) + field(7, bytes(65)),
        "numbers beyond a byte": model + tensor(b"UINT8", (1, 8, 8), field(4, b"\x80\x02" * 64)),
        "a name that is no text": field(1, b"\xff\xfe"),
        "no model": field(1, b"../../etc/passwd"),
        "beyond the limit": model + tensor(b"UINT8", (1, 8, 8)) + field(7, bytes(80 * mega)),
    }
    blame = {grpc.StatusCode[n] for n in ("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED")}
    with grpc.insecure_channel(target.grpc, options) as channel:
        infer = channel.unary_unary(f"{SERVICE}ModelInfer")
        for what, content in messages.items():
            status = status_of(infer, content, metadata)
            assert status in blame, f"{what}: {status}"
        for name in (
            "RepositoryIndex",
            "RepositoryModelLoad",
            "ModelMetadata",
            "ServerLive",
            "ModelStatistics",
        ):
            status = status_of(channel.unary_unary(SERVICE + name), bytes(mega), metadata)
            assert status in blame, f"{name} of a megabyte: {status}"
        status = status_of(channel.unary_unary("/inference.Nothing/Infer"), b"", metadata)
        assert status is grpc.StatusCode.UNIMPLEMENTED, status
        bomb = status_of(infer, model + bytes(60 * mega), metadata, compression=grpc.Compression.Gzip)
        assert bomb in blame, f"a packed bomb: {bomb}"
        if target.token:
            for credentials in ([], [("authorization", "Bearer x")], metadata * 2):
                status = status_of(infer, model, credentials)
                assert status is grpc.StatusCode.UNAUTHENTICATED, f"{credentials}: {status}"
        never_sent(channel, metadata)


def deep(n_levels: int) -> bytes:
    """Write parameters inside parameters."""
    content = b""
    for _ in range(n_levels):
        content = field(4, content)
    return content


def status_of(call: object, content: bytes, metadata: list[tuple[str, str]], **more: object) -> object:
    """Ask, and return what gRPC says of it."""
    try:
        call(content, timeout=60, metadata=metadata, **more)  # type: ignore[operator]
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK


def never_sent(channel: grpc.Channel, metadata: list[tuple[str, str]]) -> None:
    """Begin calls whose message does not come."""
    begin = channel.stream_unary(f"{SERVICE}ModelInfer")
    stop = threading.Event()

    def nothing() -> object:
        stop.wait(60)
        yield from ()

    calls = [begin.future(nothing(), metadata=metadata, timeout=60) for _ in range(200)]
    deadline_s = time.monotonic() + 50
    while not all(call.done() for call in calls) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    n_open = sum(not call.done() for call in calls)
    stop.set()
    assert not n_open, f"{n_open} of 200 calls without a message are waited for"


if __name__ == "__main__":
    run(attempt)
