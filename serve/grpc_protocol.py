"""Requests and responses of inference over gRPC."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from encas.errors import InvalidInput
from encas.serve.grpc_messages import message
from encas.serve.protocol import InferRequest, check_outputs
from encas.serve.tensor import DTYPES, Tensor, from_raw, to_raw

# Datatype -> the field of the contents that holds its numbers.
_CONTENTS = {"UINT8": "uint_contents", "INT64": "int64_contents", "FP32": "fp32_contents"}
_MOST_AXES, _MOST_SIZE = 8, 2**31


def read_request(request: Any, *, input_name: str, output_names: Sequence[str]) -> InferRequest:
    """Read a `ModelInferRequest` for a model with one input.

    Raises:
        InvalidInput: Anything that the protocol does not allow, or that this model does not have.
    """
    if [tensor.name for tensor in request.inputs] != [input_name]:
        found = ", ".join(repr(tensor.name[:40]) for tensor in request.inputs[:5]) or "none"
        raise InvalidInput(f"inputs: exactly one, named '{input_name}', is needed; found {found}")
    wanted = [output.name for output in request.outputs]
    check_outputs(wanted, output_names)
    top = {
        output.name: _count(output.parameters["classification"], f"output {output.name!r}")
        for output in request.outputs
        if "classification" in output.parameters
    }
    tensor = _tensor(request.inputs[0], list(request.raw_input_contents))
    return InferRequest(request.id or None, tensor, dict.fromkeys(wanted or output_names, True), top)


def write_response(request: InferRequest, name: str, version: str, outputs: Mapping[str, Tensor]) -> Any:
    """Write a `ModelInferResponse`, its tensors raw."""
    response = message("ModelInferResponse")(model_name=name, model_version=version, id=request.id or "")
    for output in request.outputs:
        tensor = outputs[output]
        response.outputs.add(name=output, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(to_raw(tensor))
    return response


def _tensor(entry: Any, raws: list[bytes]) -> Tensor:
    place, shape = f"input '{entry.name}'", tuple(entry.shape)
    if len(shape) > _MOST_AXES or not all(0 <= size < _MOST_SIZE for size in shape):
        raise InvalidInput(f"{place}: shape must be up to {_MOST_AXES} numbers from 0, is {list(shape)[:9]}")
    if "shared_memory_region" in entry.parameters:
        raise InvalidInput(f"{place}: shared memory is not supported; send contents")
    if raws:
        if entry.HasField("contents"):
            raise InvalidInput(f"{place}: has both contents and raw_input_contents; one is needed")
        if len(raws) != 1:
            raise InvalidInput(f"raw_input_contents: {len(raws)} tensors for 1 input")
        return from_raw(entry.name, entry.datatype, shape, raws[0])
    if entry.datatype == "BYTES":
        elements = tuple(entry.contents.bytes_contents)
        _check_count(place, shape, len(elements))
        return Tensor(entry.name, "BYTES", shape, elements)
    if entry.datatype not in _CONTENTS:
        known = ", ".join(("BYTES", *_CONTENTS))
        raise InvalidInput(f"{place}: datatype must be one of {known}, is {entry.datatype[:40]!r}")
    values = np.array(getattr(entry.contents, _CONTENTS[entry.datatype]))
    _check_count(place, shape, len(values))
    dtype = DTYPES[entry.datatype]
    if dtype == np.uint8 and len(values) and values.max() > 255:
        raise InvalidInput(f"{place}: UINT8 contents must be from 0 to 255; found {values.max()}")
    return from_raw(entry.name, entry.datatype, shape, values.astype(dtype).tobytes())


def _check_count(place: str, shape: tuple[int, ...], n: int) -> None:
    if n != math.prod(shape):
        raise InvalidInput(
            f"{place}: contents hold {n} elements, shape {list(shape)} needs {math.prod(shape)}"
        )


def _count(parameter: Any, place: str) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(parameter, kind) < 1:
        raise InvalidInput(f"{place}: the parameter classification must be a number of classes, from 1")
    return int(getattr(parameter, kind))
