import pytest

from encas.errors import InvalidInput, TooLarge
from encas.serve.grpc_guard import MOST_PARTS, check_parts
from encas.serve.grpc_messages import message


def test_a_message_of_few_parts_passes() -> None:
    request = message("ModelInferRequest")(model_name="digits", id="7")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=(1, 8, 8))
    tensor.contents.uint_contents.extend(range(64))
    tensor.parameters["a"].double_param = 0.5
    request.raw_input_contents.append(bytes(10**6))
    check_parts("ModelInfer", request.SerializeToString())
    check_parts("ServerLive", b"")


def test_parts_are_counted_at_every_level_that_makes_objects() -> None:
    request = message("ModelInferRequest")()
    contents = request.inputs.add().contents
    contents.bytes_contents.extend([b""] * (MOST_PARTS - 2))  # besides the input and its contents
    check_parts("ModelInfer", request.SerializeToString())
    contents.bytes_contents.append(b"")
    with pytest.raises(TooLarge, match="more than 100000 parts"):
        check_parts("ModelInfer", request.SerializeToString())
    with pytest.raises(TooLarge):
        check_parts("ModelInfer", b"\x2a\x00" * (MOST_PARTS + 1))


@pytest.mark.parametrize("content", [b"\x08", b"\x0a\x05abc", b"\x0b", b"\x08" + b"\xff" * 20, b"\xff" * 9])
def test_what_is_no_message_is_told(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="no message of protobuf"):
        check_parts("ModelInfer", content)
