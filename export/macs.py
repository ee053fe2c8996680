"""Counting the multiply-accumulates of an ONNX graph: convolutions, linear layers and attention."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from encas.errors import InvalidInput
from encas.runtime import open_session

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def count_graph_macs(model: ModelProto, sample: Shape, place: str) -> int:
    """Count the multiply-accumulates for one sample, half of what `torch.utils.flop_counter` counts in FLOPs.

    The graph is run once: the shapes of some exporters' graphs depend on numbers computed in them, which
    ONNX's shape inference does not follow.

    Args:
        model: Takes one input, (1, *sample).
        sample: Channels, height, width.
        place: What errors call it.

    Raises:
        InvalidInput: What is counted hides in a branch or a loop.
    """
    hidden = next((node for node in model.graph.node if _hides_work(node)), None)
    if hidden is not None:
        raise InvalidInput(
            f"{place}: node '{hidden.name or hidden.op_type}' has convolutions or matrix products in a "
            "branch or a loop, and how often they run cannot be told; export the network without it"
        )
    counted = [node for node in model.graph.node if node.op_type in _COUNTERS]
    shapes = _shapes(model, counted, sample)
    return sum(_COUNTERS[node.op_type](node, shapes) for node in counted)


def _shapes(model: ModelProto, nodes: Sequence[NodeProto], sample: Shape) -> Shapes:
    """Shapes of all that goes into nodes and comes out of them, of which the graph is made to tell."""
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    names = sorted({name for node in nodes for name in (*node.input, *node.output)} - known.keys() - {""})
    if not names:
        return known
    telling = ModelProto()
    telling.CopyFrom(model)
    # One output: the number of axes of each tensor, then their sizes.
    for j, name in enumerate(names):
        telling.graph.node.append(helper.make_node("Shape", [name], [f"encas_shape_{j}"]))
        telling.graph.node.append(helper.make_node("Shape", [f"encas_shape_{j}"], [f"encas_rank_{j}"]))
    parts = [f"encas_{what}_{j}" for what in ("rank", "shape") for j in range(len(names))]
    telling.graph.node.append(helper.make_node("Concat", parts, ["encas_told"], axis=0))
    telling.graph.output.append(helper.make_tensor_value_info("encas_told", TensorProto.INT64, [None]))
    session = open_session(telling.SerializeToString(), "cpu", output="encas_told")
    told = session.run(np.zeros((1, *sample), np.float32))
    ends = np.cumsum(told)[: len(names)] + len(names)
    shapes = np.split(told, [len(names), *ends])[1:-1]
    return known | {name: tuple(shape.tolist()) for name, shape in zip(names, shapes, strict=True)}


def _conv(weight: int) -> Callable[[NodeProto, Shapes], int]:
    """Each output is a sum over the input channels of its group and over the kernel."""

    def count(node: NodeProto, shapes: Shapes) -> int:
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])

    return count


def _conv_transpose(node: NodeProto, shapes: Shapes) -> int:
    """Each input goes into the output channels of its group, over the kernel."""
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if turned else 1]


def _matmul(node: NodeProto, shapes: Shapes) -> int:
    """Each output is a sum over the last axis of the first factor."""
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    """Two factors that share a summed index cost the product of all indices."""
    equation = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
    given, _, kept = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        sizes.update(zip(term, shapes[name], strict=True))
    summed = sizes.keys() - set(kept)
    return math.prod(sizes.values()) if len(terms) > 1 and summed else 0


def _attention(node: NodeProto, shapes: Shapes) -> int:
    """Q K^T and the product with V; (b, heads, positions, width), or (b, positions, heads * width)."""
    query, key, value = (shapes[name] for name in node.input[:3])
    if len(query) == 4:
        batch, heads, positions, width = query
        return batch * heads * positions * key[2] * (width + value[3])
    n_heads = {attribute.name: int(attribute.i) for attribute in node.attribute}
    width_v = value[2] * n_heads["q_num_heads"] // n_heads["kv_num_heads"]
    return query[0] * query[1] * key[1] * (query[2] + width_v)


def _hides_work(node: NodeProto) -> bool:
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return any(inner.op_type in _COUNTERS or _hides_work(inner) for graph in graphs for inner in graph.node)


_COUNTERS: Mapping[str, Callable[[NodeProto, Shapes], int]] = {
    "Attention": _attention,
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
}
