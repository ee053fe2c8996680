"""A named tensor of the Open Inference Protocol, and its two forms on the wire: JSON and raw bytes."""

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encas.errors import InvalidInput

# What this server takes or gives, besides BYTES. Raw tensors are little-endian.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
}
DATATYPES = ("BYTES", *DTYPES)
_LENGTH = struct.Struct("<I")  # before each BYTES element


@dataclass(frozen=True)
class Tensor:
    """Numbers as an array of `shape`; with datatype BYTES one `bytes` per element, row-major."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | tuple[bytes, ...]

    @classmethod
    def of(cls, name: str, datatype: str, array: NDArray[Any]) -> "Tensor":
        """Make a tensor of numbers."""
        return cls(name, datatype, array.shape, np.ascontiguousarray(array, DTYPES[datatype]))

    @classmethod
    def of_texts(cls, name: str, texts: Iterable[str]) -> "Tensor":
        """Make a tensor (n,) of BYTES."""
        data = tuple(text.encode() for text in texts)
        return cls(name, "BYTES", (len(data),), data)


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Tensor:
    """Read a tensor from the bytes behind the JSON.

    Raises:
        InvalidInput: Not as many bytes as the shape needs, an unknown datatype, or not finite.
    """
    place, n = f"input '{name}'", math.prod(shape)
    dtype = _dtype(place, datatype)
    if dtype is None:
        return Tensor(name, datatype, shape, _raw_elements(place, n, raw))
    if len(raw) != n * dtype.itemsize:
        raise InvalidInput(
            f"{place}: binary_data_size is {len(raw)}, shape {list(shape)} of {datatype} needs "
            f"{n * dtype.itemsize} bytes"
        )
    return Tensor(name, datatype, shape, _finite(place, np.frombuffer(raw, dtype).reshape(shape)))


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """Read a tensor from its JSON, nested as the shape or flat; BYTES elements are base64.

    Raises:
        InvalidInput: Other data than the shape and the datatype say.
    """
    place = f"input '{name}'"
    dtype = _dtype(place, datatype)
    flat = _flat(place, shape, data)
    if dtype is None:
        return Tensor(name, datatype, shape, tuple(_base64(place, i, text) for i, text in enumerate(flat)))
    return Tensor(name, datatype, shape, _numbers(place, datatype, flat).reshape(shape))


def to_raw(tensor: Tensor) -> bytes:
    """Write what goes behind the JSON."""
    if isinstance(tensor.data, tuple):
        return b"".join(_LENGTH.pack(len(element)) + element for element in tensor.data)
    return tensor.data.tobytes()


def to_json(tensor: Tensor) -> list[Any]:
    """Write flat JSON data; BYTES elements are text."""
    if isinstance(tensor.data, tuple):
        return [element.decode() for element in tensor.data]
    flat: list[Any] = tensor.data.ravel().tolist()
    return flat


def _dtype(place: str, datatype: str) -> np.dtype[Any] | None:
    if datatype not in DATATYPES:
        raise InvalidInput(f"{place}: datatype must be one of {', '.join(DATATYPES)}, is {datatype[:40]!r}")
    return DTYPES.get(datatype)


def _raw_elements(place: str, n: int, raw: bytes) -> tuple[bytes, ...]:
    elements: list[bytes] = []
    position = 0
    for i in range(n):
        start = position + _LENGTH.size
        if start > len(raw):
            raise InvalidInput(f"{place}: the shape says {n} elements, and the data ends before element {i}")
        (length,) = _LENGTH.unpack_from(raw, position)
        position = start + length
        if position > len(raw):
            raise InvalidInput(
                f"{place}: element {i} has {length} bytes by its 4-byte little-endian length, "
                f"and {len(raw) - start} bytes are left"
            )
        elements.append(raw[start:position])
    if position != len(raw):
        raise InvalidInput(
            f"{place}: {len(raw) - position} bytes are left after the {n} elements of the shape"
        )
    return tuple(elements)


def _flat(place: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    """Undo the nesting level by level: C speed on millions of numbers, and no recursion."""
    if not isinstance(data, list):
        raise InvalidInput(f"{place}: data must be a list, is {type(data).__name__}")
    if set(map(type, data)) != {list}:
        if len(data) != math.prod(shape):
            raise InvalidInput(
                f"{place}: data holds {len(data)} elements, shape {list(shape)} needs {math.prod(shape)}"
            )
        return data
    sizes, level = {len(data)}, data
    for depth, size in enumerate(shape):
        if sizes != {size}:
            found = " and ".join(str(s) for s in sorted(sizes)[:3])
            raise InvalidInput(
                f"{place}: data has lists of {found} elements at depth {depth}, its shape says {size}"
            )
        if depth + 1 == len(shape):
            break
        if set(map(type, level)) != {list}:
            raise InvalidInput(f"{place}: data must be flat, or nested as its shape {list(shape)}")
        sizes = set(map(len, level))
        level = list(chain.from_iterable(level))
    return level


def _numbers(place: str, datatype: str, flat: list[Any]) -> NDArray[Any]:
    dtype, kinds = DTYPES[datatype], set(map(type, flat))
    if not kinds <= {int, float}:
        wrong = next(item for item in flat if type(item) not in (int, float))
        raise InvalidInput(f"{place}: data must hold numbers only, holds a {type(wrong).__name__}")
    try:
        wide = np.array(flat, np.float64 if float in kinds or dtype.kind == "f" else np.int64)
    except OverflowError:
        raise InvalidInput(f"{place}: data holds a number beyond the range of {datatype}") from None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return _finite(place, wide.astype(dtype))
    limits = np.iinfo(dtype)
    if not np.all((wide >= limits.min) & (wide <= limits.max) & (wide == np.floor(wide))):
        raise InvalidInput(
            f"{place}: {datatype} data must be whole numbers from {limits.min} to {limits.max}; "
            f"found {wide.min():g} to {wide.max():g}"
        )
    return wide.astype(dtype)


def _finite(place: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(f"{place}: holds values that are NaN, infinite or beyond the range of FP32")
    return array


def _base64(place: str, index: int, text: Any) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(
            f"{place}: BYTES elements in JSON must be base64 strings, element {index} is "
            f"{type(text).__name__}"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{place}: element {index} is not base64: {error}") from None
