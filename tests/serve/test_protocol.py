import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encas.errors import InvalidInput, TooLarge
from encas.serve.protocol import (
    InferRequest,
    decompress,
    encode_error,
    encode_response,
    parse_request,
)
from encas.serve.refusals import UnknownEncoding
from encas.serve.tensor import Tensor

NAMES = ("class", "label", "probs")


def parse(body: bytes, header_length: str | None = None) -> InferRequest:
    return parse_request(body, header_length, input_name="image", output_names=NAMES)


def body(**changes: Any) -> bytes:
    """Two pixels in JSON; a change to None leaves the field out."""
    image = {"name": "image", "shape": [1, 1, 2], "datatype": "UINT8", "data": [7, 8]}
    fields = {"inputs": [image], **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def with_raw(head: Mapping[str, Any], *raws: bytes) -> tuple[bytes, str]:
    text = json.dumps(head).encode()
    return b"".join([text, *raws]), str(len(text))


def raw_input(size: Any = 2, **more: Any) -> dict[str, Any]:
    parameters = {"parameters": {"binary_data_size": size}}
    return {"inputs": [{"name": "image", "shape": [1, 1, 2], "datatype": "UINT8", **parameters, **more}]}


def test_a_json_request_gives_its_tensor_and_all_outputs_as_json() -> None:
    request = parse(body(id="a 1", model_name="digits", parameters={"own": 3}))
    assert request.id == "a 1"
    assert isinstance(request.input.data, np.ndarray)
    assert request.input.data.tolist() == [[[7, 8]]]
    assert request.outputs == {"class": False, "label": False, "probs": False}


def test_the_outputs_that_are_named_come_in_their_order_and_form() -> None:
    outputs = [{"name": "probs", "parameters": {"binary_data": False}}, {"name": "class"}]
    request = parse(body(outputs=outputs, parameters={"binary_data_output": True}))
    assert list(request.outputs.items()) == [("probs", False), ("class", True)]


def test_a_raw_tensor_lies_behind_the_json() -> None:
    request = parse(*with_raw(raw_input(), b"\7\x08"))
    assert isinstance(request.input.data, np.ndarray)
    assert request.input.data.tolist() == [[[7, 8]]]


def test_the_header_may_be_given_for_json_alone() -> None:
    assert parse(body(), str(len(body()))).outputs == parse(body()).outputs


def test_with_the_header_zero_the_body_is_one_image() -> None:
    request = parse(b"\x89PNG...", "0")
    assert request.input == Tensor("image", "BYTES", (1,), (b"\x89PNG...",))
    assert request.id is None


@pytest.mark.parametrize(
    ("content", "header", "says"),
    [
        (b"", None, "not JSON"),
        (b"", "0", "the body is empty"),
        (b"\xff\xfe", None, "not JSON"),
        (b"[]", None, "valid dictionary"),
        (b"{}", None, "inputs: Field required"),
        (b"[" * 100_000, None, "nested too deeply"),
        (b"9" * 5000, None, "not JSON"),
        (body(), "abc", "must be the number of bytes of the JSON, is 'abc'"),
        (body(), "-1", "must be the number of bytes"),
        (body(), "\N{SUPERSCRIPT TWO}", "must be the number of bytes"),
        (body(), "9" * 5000, "must be the number of bytes"),
        (body(), "4000", "is 4000, and the body has only"),
        (body(), "10", "not JSON"),
        (body() + b"more", str(len(body())), "4 bytes follow the JSON, and binary_data_size is missing"),
        (body(output=[]), None, "unknown field 'output'; known are id,"),
        (body(id=7), None, "id: Input should be a valid string (found 7)"),
        (body(inputs=[]), None, "exactly one, named 'image', is needed; found none"),
        (body(inputs=[{"name": "x", "shape": [1], "datatype": "BYTES"}]), None, "found 'x'"),
        (body(inputs=[{"name": "image", "shape": [1]}]), None, "inputs.0.datatype: Field required"),
        (body(inputs=[{"name": "image", "shape": [-1], "datatype": "BYTES"}]), None, "inputs.0.shape.0"),
        (body(inputs=[{"name": "image", "shape": [1.5], "datatype": "BYTES"}]), None, "inputs.0.shape.0"),
        (body(inputs=[{"name": "image", "shape": [1] * 9, "datatype": "BYTES"}]), None, "at most 8 items"),
        (body(inputs=[{"name": "image", "shape": [1], "datatype": "BYTES"}]), None, "has neither data nor"),
        (
            body(outputs=[{"name": "logits"}]),
            None,
            "output 'logits': unknown; this model has class, label, probs",
        ),
        (body(outputs=[{"name": "class"}, {"name": "class"}]), None, "output 'class': named twice"),
        (
            body(outputs=[{"name": "probs", "parameters": {"classification": "3"}}]),
            None,
            "the parameter classification must be a number of classes, is '3'",
        ),
        (
            body(outputs=[{"name": "probs", "parameters": {"binary_data": 1}}]),
            None,
            "the parameter binary_data must be true or false, is 1",
        ),
        (body(parameters={"binary_data_output": "yes"}), None, "binary_data_output must be true or false"),
        (*with_raw(raw_input(3), b"\7\x08"), "binary_data_size is 3, and 2 bytes follow the JSON"),
        (*with_raw(raw_input("2"), b"\7\x08"), "binary_data_size is '2'"),
        (*with_raw(raw_input(1), b"\7"), "binary_data_size is 1, shape [1, 1, 2] of UINT8 needs 2 bytes"),
        (*with_raw(raw_input(data=[7, 8]), b"\7\x08"), "has both data and"),
        (with_raw(raw_input())[0], None, "binary_data_size needs the header"),
        (
            body(
                inputs=[
                    {
                        "name": "image",
                        "shape": [1],
                        "datatype": "UINT8",
                        "parameters": {"shared_memory_region": "r"},
                    }
                ]
            ),
            None,
            "shared memory is not supported",
        ),
    ],
)
def test_a_wrong_request_is_told_in_one_line(content: bytes, header: str | None, says: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse(content, header)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 200 + b"]" * 200, "valid dictionary"),
        (b"[" * 202 + b"]" * 202, "nested too deeply"),
        (b'"\\ud800"', "not JSON"),  # half of a character
        (b"[" + b"0," * 5_000_000 + b"0]", "more than 5000000 values"),
        (b'{"a":' * 100_001, "or 100000 keys"),
    ],
)
def test_json_that_would_take_long_to_read_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(content)


@pytest.mark.slow
def test_millions_of_wrong_things_give_one_short_line() -> None:
    for inputs in ([1] * 500_000, [{"name": "image", "shape": [-1] * 500_000, "datatype": "UINT8"}]):
        with pytest.raises(InvalidInput) as error:
            parse(body(inputs=inputs))
        assert len(str(error.value)) < 300
    with pytest.raises(InvalidInput) as error:
        parse(json.dumps({f"field{i}": 1 for i in range(100_000)}).encode())
    assert len(str(error.value)) < 300


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
headers = st.none() | st.integers(-1, 400).map(str) | st.text(max_size=4)


def mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A wrong value now and then, so that every check behind the first is reached too."""
    return st.integers(0, 19).flatmap(lambda i: values if i == 13 else right)


numbers = st.lists(st.integers(0, 260) | st.floats(width=32), min_size=1, max_size=2)
place = {
    "name": mostly(st.just("image")),
    "shape": mostly(st.lists(st.integers(0, 2), min_size=1, max_size=2)),
    "datatype": mostly(st.sampled_from(["UINT8", "FP32", "BYTES", "INT64"])),
}
data = mostly(numbers | st.lists(numbers, max_size=2) | st.lists(st.just("YQ=="), max_size=2))
binary = mostly(st.fixed_dictionaries({"binary_data_size": st.integers(0, 9)}))
tensors = (
    st.fixed_dictionaries({**place, "data": data})
    | st.fixed_dictionaries({**place, "parameters": binary})
    | st.fixed_dictionaries(place, optional={"data": data, "parameters": binary})
)
outputs = st.fixed_dictionaries(
    {"name": mostly(st.sampled_from(NAMES))},
    optional={"parameters": mostly(st.fixed_dictionaries({"binary_data": mostly(st.booleans())}))},
)
requests = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(tensors, min_size=1, max_size=1))},
    optional={
        "id": mostly(st.text(max_size=3)),
        "parameters": mostly(st.fixed_dictionaries({"binary_data_output": mostly(st.booleans())})),
        "outputs": mostly(st.lists(outputs, max_size=2)),
    },
)


def either_reads_or_says_why(content: bytes, header: str | None) -> None:
    try:
        request = parse(content, header)
    except InvalidInput as error:
        assert "\n" not in str(error)
        assert json.loads(encode_error(str(error))) == {"error": str(error)}
    else:
        assert set(request.outputs) <= set(NAMES)


@given(st.binary(max_size=60), headers)
def test_any_bytes_give_a_tensor_or_a_clear_error(content: bytes, header: str | None) -> None:
    either_reads_or_says_why(content, header)


@given(values, headers)
def test_any_json_gives_a_tensor_or_a_clear_error(value: Any, header: str | None) -> None:
    either_reads_or_says_why(json.dumps(value).encode(), header)


@pytest.mark.slow
@given(requests, st.binary(max_size=12), st.booleans())
def test_anything_like_a_request_gives_a_tensor_or_a_clear_error(value: Any, raw: bytes, told: bool) -> None:
    text = json.dumps(value).encode()
    either_reads_or_says_why(text + raw if told else text, str(len(text)) if told else None)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("GZIP ", gzip.compress),
        (None, bytes),
        ("identity", bytes),
    ],
)
def test_a_packed_body_is_unpacked(encoding: str | None, pack: Any) -> None:
    assert decompress(pack(b"a" * 100), encoding, 100) == b"a" * 100


@pytest.mark.parametrize(
    ("packed", "encoding", "kind", "says"),
    [
        (gzip.compress(b"a" * 101, mtime=0), "gzip", TooLarge, "unpacks to more than 100 bytes"),
        (gzip.compress(bytes(10**7), mtime=0), "gzip", TooLarge, "unpacks to more than 100 bytes"),
        (b"a", "br", UnknownEncoding, "must be gzip, deflate or identity, is 'br'"),
        (b"a", "gzip, gzip", UnknownEncoding, "must be gzip"),
        (b"plain", "gzip", InvalidInput, "the body is not gzip, as Content-Encoding says"),
        (gzip.compress(b"a", mtime=0)[:-1], "gzip", InvalidInput, "stops before the end of its gzip data"),
        (b"", "deflate", InvalidInput, "stops before the end"),
        (zlib.compress(b"a") + b"b", "deflate", InvalidInput, "goes on after the end"),
    ],
)
def test_a_wrongly_packed_body_is_told(
    packed: bytes, encoding: str, kind: type[Exception], says: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        decompress(packed, encoding, 100)
    assert type(error.value) is kind
    assert says in str(error.value)


OUTPUTS = {
    "class": Tensor.of("class", "INT64", np.array([3, 1])),
    "label": Tensor.of_texts("label", ["three", "one"]),
    "probs": Tensor.of("probs", "FP32", np.array([[0.25, 0.75], [1, 0]])),
}
IMAGE = Tensor("image", "BYTES", (1,), (b"",))


def test_a_json_response_holds_the_outputs_flat() -> None:
    request = InferRequest("7", IMAGE, {"label": False, "probs": False})
    content, header_length = encode_response(request, "digits", "1", OUTPUTS)
    assert header_length is None
    assert json.loads(content) == {
        "model_name": "digits",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["three", "one"]},
            {"name": "probs", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 1, 0]},
        ],
    }


def test_a_binary_response_holds_raw_tensors_in_the_order_of_the_json() -> None:
    request = InferRequest(None, IMAGE, {"probs": True, "class": False, "label": True})
    content, header_length = encode_response(request, "digits", "1", OUTPUTS)
    assert header_length is not None
    head = json.loads(content[:header_length])
    assert "id" not in head
    probs, classes, label = head["outputs"]
    assert probs["parameters"] == {"binary_data_size": 16}
    assert "data" not in probs
    assert classes["data"] == [3, 1]
    assert label["parameters"] == {"binary_data_size": 16}
    assert (
        content[header_length:]
        == np.array([0.25, 0.75, 1, 0], np.float32).tobytes() + b"\5\0\0\0three\3\0\0\0one"
    )
