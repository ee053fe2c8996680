import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from encas.errors import InvalidInput
from encas.serve.tensor import DTYPES, Tensor, from_json, from_raw, to_json, to_raw


def finite(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


numbers = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda datatype: st.tuples(
        st.just(datatype),
        hnp.arrays(DTYPES[datatype], hnp.array_shapes(max_dims=4, max_side=5)).filter(finite),
    )
)


@pytest.mark.slow
@given(numbers)
def test_numbers_survive_both_forms(case: tuple[str, Any]) -> None:
    datatype, array = case
    tensor = Tensor.of("image", datatype, array)
    raw = from_raw("image", datatype, array.shape, to_raw(tensor))
    flat = from_json("image", datatype, array.shape, to_json(tensor))
    nested = from_json("image", datatype, array.shape, array.tolist())
    for found in (raw, flat, nested):
        assert found.shape == array.shape
        assert isinstance(found.data, np.ndarray)
        assert found.data.dtype == DTYPES[datatype]
        assert np.array_equal(found.data, array)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_bytes_survive_both_forms(elements: list[bytes]) -> None:
    tensor = Tensor("image", "BYTES", (len(elements),), tuple(elements))
    assert from_raw("image", "BYTES", tensor.shape, to_raw(tensor)) == tensor
    texts = [base64.b64encode(element).decode() for element in elements]
    assert from_json("image", "BYTES", tensor.shape, texts) == tensor


def test_raw_numbers_are_little_endian_and_row_major() -> None:
    tensor = Tensor.of("x", "INT64", np.array([[1, 256], [-1, 0]]))
    one, page, minus = b"\1" + b"\0" * 7, b"\0\1" + b"\0" * 6, b"\xff" * 8
    assert to_raw(tensor) == one + page + minus + b"\0" * 8


def test_a_raw_bytes_element_follows_its_little_endian_length() -> None:
    assert to_raw(Tensor.of_texts("label", ["cat", "\N{LATIN SMALL LETTER E WITH ACUTE}"])) == (
        b"\3\0\0\0cat" + b"\2\0\0\0\xc3\xa9"
    )


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "says"),
    [
        ("INT8", (1,), [1], "datatype must be one of BYTES, UINT8, INT64, FP32, is 'INT8'"),
        ("UINT8", (2,), [1], "data holds 1 elements, shape [2] needs 2"),
        ("UINT8", (2,), "ab", "data must be a list, is str"),
        ("UINT8", (2,), {"a": 1}, "data must be a list, is dict"),
        ("UINT8", (2,), [1, "2"], "data must hold numbers only, holds a str"),
        ("UINT8", (2,), [1, None], "data must hold numbers only, holds a NoneType"),
        ("UINT8", (2,), [1, True], "data must hold numbers only, holds a bool"),
        ("UINT8", (2,), [0, 256], "whole numbers from 0 to 255; found 0 to 256"),
        ("UINT8", (2,), [-1, 0], "whole numbers from 0 to 255; found -1 to 0"),
        ("UINT8", (2,), [0.5, 1], "whole numbers from 0 to 255"),
        ("UINT8", (1,), [2**70], "beyond the range of UINT8"),
        ("FP32", (1,), [10**400], "beyond the range of FP32"),
        ("FP32", (1,), [1e39], "NaN, infinite or beyond the range of FP32"),
        ("FP32", (1,), [float("nan")], "NaN, infinite"),
        ("UINT8", (2, 2), [[1, 2], [3]], "lists of 1 and 2 elements at depth 1, its shape says 2"),
        ("UINT8", (2, 2), [[1, 2], [3, 4], [5, 6]], "lists of 3 elements at depth 0, its shape says 2"),
        ("UINT8", (2, 2), [[1, 2], 3], "data holds 2 elements, shape [2, 2] needs 4"),
        ("UINT8", (1, 2, 1), [[1, 2]], "flat, or nested as its shape [1, 2, 1]"),
        ("UINT8", (1,), [[1]], "numbers only, holds a list"),
        ("BYTES", (1,), [1], "base64 strings, element 0 is int"),
        ("BYTES", (2,), ["YQ==", "Y"], "element 1 is not base64"),
        ("BYTES", (1,), ["\ud800"], "element 0 is not base64"),
    ],
)
def test_wrong_json_data_is_told_in_one_line(
    datatype: str, shape: tuple[int, ...], data: Any, says: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        from_json("image", datatype, shape, data)
    message = str(error.value)
    assert message.startswith("input 'image': ")
    assert "\n" not in message
    assert says in message


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "says"),
    [
        ("FP16", (1,), b"ab", "datatype must be one of"),
        ("FP32", (2,), b"1234", "binary_data_size is 4, shape [2] of FP32 needs 8 bytes"),
        ("FP32", (1,), np.float32(np.inf).tobytes(), "infinite"),
        ("BYTES", (1,), b"", "says 1 elements, and the data ends before element 0"),
        ("BYTES", (2,), b"\1\0\0\0a\0", "says 2 elements, and the data ends before element 1"),
        (
            "BYTES",
            (1,),
            b"\5\0\0\0abc",
            "has 5 bytes by its 4-byte little-endian length, and 3 bytes are left",
        ),
        ("BYTES", (1,), b"\1\0\0\0abc", "2 bytes are left after the 1 elements"),
        ("BYTES", (2**31 - 1,) * 8, b"\0" * 4000, "the data ends before element 1000"),
    ],
)
def test_wrong_raw_data_is_told_in_one_line(
    datatype: str, shape: tuple[int, ...], raw: bytes, says: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        from_raw("image", datatype, shape, raw)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
