"""ONNX graphs: reading them, freeing their batch axis, ending them in a softmax, writing them."""

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from encas.errors import InvalidInput
from encas.files import write_bytes
from encas.member import Precision

OLDEST_OPSET = 13  # from here on Softmax works along one axis; older graphs are converted
OPSET = 18
MOST_BYTES = 2**31 - 2**24  # of weights in one file without external data, with room for the nodes
_INTEGER = (
    "QLinear",
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantize",
    "ConvInteger",
    "MatMulInteger",
)
_SAME_NUMBERS = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout")

Dims = tuple[int | None, ...]  # None: any size


def load(path: Path) -> ModelProto:
    """Read an ONNX file, weights that lie beside it included, and bring it to an opset that we write.

    Raises:
        InvalidInput: Not an ONNX graph, or an old one that cannot be converted.
    """
    try:
        model = onnx.load(path)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except FileNotFoundError as error:
        raise InvalidInput(f"{error.filename or path}: no such file") from None
    except Exception as error:  # protobuf's, the checker's
        raise InvalidInput(f"{path}: is no whole ONNX graph: {_reason(error)}") from None
    if not model.graph.node:
        raise InvalidInput(f"{path}: is no whole ONNX graph: it has no nodes")
    return model if opset_of(model) >= OLDEST_OPSET else with_opset(model, OPSET, str(path))


def with_opset(model: ModelProto, opset: int, place: str) -> ModelProto:
    """Return the same graph in the operators of another opset.

    Raises:
        InvalidInput: It cannot be converted.
    """
    if opset_of(model) == opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:
        raise InvalidInput(
            f"{place}: has opset {opset_of(model)} and cannot be converted to {opset} ({_reason(error)}); "
            f"export it with opset {max(opset, OLDEST_OPSET)}"
        ) from None


def save(model: ModelProto, path: Path, most_bytes: int = MOST_BYTES) -> None:
    """Write a graph without its notes of where it came from: paths and lines of somebody's source code.

    Raises:
        InvalidInput: It has more weights than a file without external data holds.
    """
    n_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if n_bytes > most_bytes:
        raise InvalidInput(
            f"{path.stem}: its weights take {n_bytes / 2**30:.3g} GiB, and a member's file holds "
            f"{most_bytes / 2**30:.3g}, as ONNX files without external data do; make a variant in fp16 or "
            "int8 of it, or leave it out"
        )
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for part in (model, model.graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    write_bytes(path, model.SerializeToString(deterministic=True))


def opset_of(model: ModelProto) -> int:
    """Version of ONNX's own operators that the graph uses."""
    versions = (int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return next(versions, 1)


def precision_of(model: ModelProto) -> Precision:
    """Say what a graph computes in: the least that it holds."""
    if any(node.op_type.startswith(_INTEGER) for node in model.graph.node):
        return "int8"
    is_half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if is_half else "fp32"


def image_input(model: ModelProto, place: str) -> ValueInfoProto:
    """Find the one input that is no weight.

    Raises:
        InvalidInput: There are several, or it is not float32 (n, channels, height, width).
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs: list[ValueInfoProto] = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or not _is_float(inputs[0]) or len(dims_of(inputs[0])) != 4:
        found = ", ".join(f"{value.name} {_shape_text(value)}" for value in inputs) or "none"
        raise InvalidInput(
            f"{place}: one input float32 (n, channels, height, width) is needed, found {found}"
        )
    return inputs[0]


def class_output(model: ModelProto, place: str) -> ValueInfoProto:
    """Find the one output.

    Raises:
        InvalidInput: There are several, or it is not float32.
    """
    outputs: list[ValueInfoProto] = list(model.graph.output)
    if len(outputs) != 1 or not _is_float(outputs[0]):
        found = ", ".join(f"{value.name} {_shape_text(value)}" for value in outputs)
        raise InvalidInput(f"{place}: one output float32 (n, classes) is needed, found {found}")
    return outputs[0]


def dims_of(value: ValueInfoProto) -> Dims:
    """Shape of a tensor."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)


def with_free_batch(model: ModelProto, place: str) -> ModelProto:
    """Return a copy that takes any number of samples.

    A `Reshape` to a constant shape that starts with 1, as exporters write it for one sample, is made to keep
    its first axis instead. Whether that was right shows only when the graph runs.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    was_fixed = dims_of(image_input(changed, place))[0] is not None
    for value in (image_input(changed, place), class_output(changed, place)):
        if dims_of(value):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if was_fixed:
        del changed.graph.value_info[:]
        _free_reshapes(changed)
    return changed


def with_classes(model: ModelProto, place: str, n_classes: int) -> ModelProto:
    """Return a copy that says that its output is (n, classes), which not all graphs do."""
    changed = ModelProto()
    changed.CopyFrom(model)
    output = class_output(changed, place)
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["batch", n_classes]))
    return changed


def with_softmax(model: ModelProto, place: str) -> ModelProto:
    """Return a copy that ends in a softmax along the classes, its output called `probs` if that is free."""
    changed = ModelProto()
    changed.CopyFrom(model)
    output = class_output(changed, place)
    used = {name for node in changed.graph.node for name in (*node.input, *node.output)}
    name = next(name for name in ("probs", "softmax_probs", f"{output.name}_softmax") if name not in used)
    changed.graph.node.append(helper.make_node("Softmax", [output.name], [name], name=name, axis=1))
    output.name = name
    return changed


def with_temperature(model: ModelProto, temperature: float, place: str) -> ModelProto:
    """Return a copy that divides what comes into its last softmax.

    Raises:
        InvalidInput: It does not end in a softmax, or that computes in something else than float32.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    nodes = changed.graph.node
    makers = {name: number for number, node in enumerate(nodes) for name in node.output}
    name = class_output(changed, place).name
    while name in makers and nodes[makers[name]].op_type in _SAME_NUMBERS:
        name = nodes[makers[name]].input[0]
    if name not in makers or nodes[makers[name]].op_type != "Softmax" or precision_of(model) == "fp16":
        raise InvalidInput(
            f"{place}: must end in a softmax in float32 to be given a temperature; leave it as it is"
        )
    number = makers[name]
    scaled = f"{nodes[number].input[0]}_tempered"
    factor = numpy_helper.from_array(np.array(1 / temperature, np.float32), f"{scaled}_by")
    changed.graph.initializer.append(factor)
    nodes.insert(
        number, helper.make_node("Mul", [nodes[number].input[0], factor.name], [scaled], name=scaled)
    )
    nodes[number + 1].input[0] = scaled
    return changed


def n_softmaxes_at_end(model: ModelProto, place: str) -> int:
    """Count the softmaxes between the output and the last node that computes anything else."""
    makers = {name: node for node in model.graph.node for name in node.output}
    name, found = class_output(model, place).name, 0
    while name in makers and makers[name].op_type in ("Softmax", *_SAME_NUMBERS):
        found += makers[name].op_type == "Softmax"
        name = makers[name].input[0]
    return found


def _free_reshapes(model: ModelProto) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for index, node in enumerate(list(model.graph.node)):
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None or _copies_zero(node):
            continue
        dims = numpy_helper.to_array(shape).copy()
        if len(dims) and dims[0] == 1:
            dims[0] = 0  # "as in the input"
            name = f"{node.input[1]}_free_{index}"
            model.graph.initializer.append(numpy_helper.from_array(dims.astype(np.int64), name))
            node.input[1] = name


def _copies_zero(node: NodeProto) -> bool:
    """Whether a 0 in the shape of this Reshape means an axis of length 0."""
    return any(attribute.name == "allowzero" and attribute.i == 1 for attribute in node.attribute)


def _is_float(value: ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _shape_text(value: ValueInfoProto) -> str:
    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return f"{kind} ({', '.join('?' if dim is None else str(dim) for dim in dims_of(value))})"


def _reason(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.rpartition("` failed: ")[2][:200]  # what stands before is a line of ONNX's source
