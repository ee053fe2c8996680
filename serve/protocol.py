"""Requests and responses of the Open Inference Protocol over REST, apart from any web framework.

Source: Open Inference Protocol (KServe V2), with the extension `binary_tensor_data`: behind the JSON come the
raw tensors, and the header `Inference-Header-Content-Length` says where the JSON ends.
"""

import json
import reprlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import from_json as decoded_json

from encas.errors import InvalidInput, TooLarge
from encas.files import FileModel, parse_model
from encas.serve.refusals import UnknownEncoding
from encas.serve.tensor import Tensor, from_json, from_raw, to_json, to_raw

HEADER_LENGTH = "Inference-Header-Content-Length"
_WINDOW_BITS = {"gzip": 31, "deflate": 15}  # "deflate" means zlib's format, RFC 9110 section 8.4.1.2


_PIECE_BYTES = 2**18
_MOST_VALUES = 5_000_000  # of a JSON body: 33 images of 3 x 224 x 224 numbers
_MOST_KEYS = 100_000

# No product of up to 8 such numbers is slow to compute.
Size = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Parameters = Mapping[str, Any]


class _Request(FileModel):
    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, value: Any) -> Any:
        """Stop at the first unknown field, where pydantic would list millions of them."""
        unknown = (
            next((key for key in value if key not in cls.model_fields), None)
            if isinstance(value, dict)
            else None
        )
        if unknown is not None:
            raise ValueError(f"unknown field {unknown[:40]!r}; known are {', '.join(cls.model_fields)}")
        return value


class RequestInput(_Request):
    """One input tensor."""

    name: str
    shape: tuple[Size, ...] = Field(max_length=8, fail_fast=True)
    datatype: str
    parameters: Parameters | None = None  # binary_data_size
    data: Any = Field(default=None, description="Row-major, nested as the shape or flat; BYTES as base64.")


class RequestOutput(_Request):
    """One output that the client wants."""

    name: str
    parameters: Parameters | None = None  # binary_data


class RequestBody(_Request):
    """The JSON of an inference request."""

    id: str | None = Field(default=None, description="Returned with the answer.")
    model_name: str | None = None
    model_version: str | None = None
    parameters: Parameters | None = None  # binary_data_output
    inputs: tuple[RequestInput, ...] = Field(fail_fast=True)
    outputs: Annotated[tuple[RequestOutput, ...], Field(fail_fast=True)] | None = Field(
        default=None, description="All, if none is named."
    )


class ResponseOutput(FileModel):
    """One output tensor."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: Parameters | None = None  # binary_data_size
    data: tuple[Any, ...] | None = Field(default=None, description="Flat, row-major; absent where binary.")


class ResponseBody(FileModel):
    """The JSON of an inference response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: tuple[ResponseOutput, ...]


@dataclass(frozen=True)
class InferRequest:
    """A request whose tensor was read and whose wishes can be met."""

    id: str | None
    input: Tensor
    outputs: Mapping[str, bool]  # name -> as binary, in the order of the answer
    top: Mapping[str, int] = field(default_factory=dict)  # name -> so many classes instead of the tensor


def decompress(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Undo `Content-Encoding`.

    Raises:
        TooLarge: More than `max_bytes` come out; no more than that is ever held.
        UnknownEncoding: Neither gzip nor deflate.
        InvalidInput: A broken stream.
    """
    encoding = (encoding or "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        raise UnknownEncoding(f"Content-Encoding must be gzip, deflate or identity, is {encoding[:40]!r}")
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        # The end of gzip says how much comes out. Where that is too much, it is looked at piece by piece.
        if encoding == "gzip" and int.from_bytes(body[-4:], "little") > max_bytes:
            _check_size(body, max_bytes)
        plain = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not {encoding}, as Content-Encoding says: {error}") from None
    if len(plain) > max_bytes:
        raise _unpacks_to_more(max_bytes)
    if not stream.eof or stream.unused_data:
        what = "goes on after" if stream.eof else "stops before"
        raise InvalidInput(f"the body {what} the end of its {encoding} data")
    return plain


def _check_size(body: bytes, max_bytes: int) -> None:
    """Unpack gzip without keeping anything."""
    stream, n_bytes = zlib.decompressobj(_WINDOW_BITS["gzip"]), 0
    while body and not stream.eof:
        n_bytes += len(stream.decompress(body, _PIECE_BYTES))
        body = stream.unconsumed_tail
        if n_bytes > max_bytes:
            raise _unpacks_to_more(max_bytes)


def _unpacks_to_more(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body unpacks to more than {max_bytes} bytes, the most that is taken")


def parse_request(
    body: bytes, header_length: str | None, *, input_name: str, output_names: Sequence[str]
) -> InferRequest:
    """Read the body of an inference request for a model with one input.

    Args:
        body: Not compressed.
        header_length: The value of `HEADER_LENGTH`, if it was sent. 0: the body is the one element of a BYTES
            tensor of shape (1,), without a length before it.
        input_name: The model's input.
        output_names: The model's outputs; all of them are wanted when the request names none.

    Raises:
        InvalidInput: Anything that the protocol does not allow, or that this model does not have.
    """
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    if length == 0 and header_length is not None:
        if not body:
            raise InvalidInput("the body is empty; it must be one encoded image")
        return InferRequest(
            None, Tensor(input_name, "BYTES", (1,), (body,)), dict.fromkeys(output_names, False)
        )
    request = parse_model(_json(body[:length]), RequestBody, "request")
    if [tensor.name for tensor in request.inputs] != [input_name]:
        found = ", ".join(repr(tensor.name[:40]) for tensor in request.inputs[:5]) or "none"
        raise InvalidInput(f"inputs: exactly one, named '{input_name}', is needed; found {found}")
    raw = None if header_length is None else body[length:]
    wanted = _wanted(request, output_names)
    return InferRequest(request.id, _tensor(request.inputs[0], raw), wanted, _top(request))


def encode_response(
    request: InferRequest, model_name: str, model_version: str, outputs: Mapping[str, Tensor]
) -> tuple[bytes, int | None]:
    """Write the body of a response.

    Args:
        request: Says which outputs are wanted, and in which form.
        model_name: Told to the client.
        model_version: Told to the client.
        outputs: At least the wanted tensors, by name.

    Returns:
        The body, and the value of `HEADER_LENGTH`: None if no output is binary.
    """
    listed, raws = [], []
    for name, binary in request.outputs.items():
        tensor = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary:
            raws.append(to_raw(tensor))
            entry["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            entry["data"] = to_json(tensor)
        listed.append(entry)
    head: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        head["id"] = request.id
    text = json.dumps({**head, "outputs": listed}, allow_nan=False).encode()
    return (b"".join([text, *raws]), len(text)) if raws else (text, None)


def encode_error(message: str) -> bytes:
    """Write the body of any answer that is no success; whatever came in as text can be said in it."""
    return json.dumps({"error": message}).encode()


def _header_length(text: str, body_length: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidInput(f"{HEADER_LENGTH} must be the number of bytes of the JSON, is {text[:40]!r}")
    if int(text) > body_length:
        raise InvalidInput(f"{HEADER_LENGTH} is {text}, and the body has only {body_length} bytes")
    return int(text)


def _json(text: bytes) -> Any:
    # Values take up to fifty times the memory of their text, and no other thread runs while they are made.
    if text.count(b",") + text.count(b"[") + text.count(b"{") > _MOST_VALUES or text.count(b":") > _MOST_KEYS:
        raise TooLarge(
            f"request: the JSON has more than {_MOST_VALUES} values or {_MOST_KEYS} keys; send raw tensors "
            f"behind the JSON, with the header {HEADER_LENGTH}"
        )
    try:
        return decoded_json(text, cache_strings=False)
    except ValueError as error:  # also what is no UTF-8, and numbers of thousands of digits
        if "recursion" in str(error):  # beyond 200 levels
            raise InvalidInput("request: the JSON is nested too deeply") from None
        raise InvalidInput(
            f"request: not JSON: {error}; raw tensors need the header {HEADER_LENGTH}"
        ) from None


def _tensor(entry: RequestInput, raw: bytes | None) -> Tensor:
    place = f"input '{entry.name}'"
    parameters = entry.parameters or {}
    if "shared_memory_region" in parameters:
        raise InvalidInput(f"{place}: shared memory is not supported; send data, or binary data")
    size = parameters.get("binary_data_size")
    if size is None:
        if raw:
            raise InvalidInput(f"{place}: {len(raw)} bytes follow the JSON, and binary_data_size is missing")
        if entry.data is None:
            raise InvalidInput(f"{place}: has neither data nor the parameter binary_data_size")
        return from_json(entry.name, entry.datatype, entry.shape, entry.data)
    if entry.data is not None:
        raise InvalidInput(f"{place}: has both data and the parameter binary_data_size; one is needed")
    if raw is None:
        raise InvalidInput(f"{place}: binary_data_size needs the header {HEADER_LENGTH}")
    if type(size) is not int or size != len(raw):
        raise InvalidInput(
            f"{place}: binary_data_size is {reprlib.repr(size)}, and {len(raw)} bytes follow the JSON"
        )
    return from_raw(entry.name, entry.datatype, entry.shape, raw)


def check_outputs(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Check the names of the outputs that a request asks for.

    Raises:
        InvalidInput: The model has no such output, or one is named twice.
    """
    for index, name in enumerate(wanted):
        place = f"output {name[:40]!r}"
        if name not in known:
            raise InvalidInput(f"{place}: unknown; this model has {', '.join(known)}")
        if name in wanted[:index]:
            raise InvalidInput(f"{place}: named twice")


def _wanted(request: RequestBody, output_names: Sequence[str]) -> dict[str, bool]:
    default = _flag(request.parameters, "binary_data_output", "request", default=False)
    if not request.outputs:
        return dict.fromkeys(output_names, default)
    check_outputs([output.name for output in request.outputs], output_names)
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        place = f"output {output.name!r}"
        if "shared_memory_region" in (output.parameters or {}):
            raise InvalidInput(f"{place}: shared memory is not supported; the data comes with the answer")
        wanted[output.name] = _flag(output.parameters, "binary_data", place, default=default)
    return wanted


def _top(request: RequestBody) -> dict[str, int]:
    """Read the parameter of the classification extension: how many classes are wanted."""
    top: dict[str, int] = {}
    for output in request.outputs or ():
        count = (output.parameters or {}).get("classification", 0)
        if type(count) is not int or count < 0:
            raise InvalidInput(
                f"output {output.name[:40]!r}: the parameter classification must be a number of classes, is "
                f"{reprlib.repr(count)}"
            )
        if count:
            top[output.name] = count
    return top


def _flag(parameters: Parameters | None, name: str, place: str, *, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{place}: the parameter {name} must be true or false, is {reprlib.repr(value)}")
    return value
