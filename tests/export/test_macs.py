from typing import Any

import numpy as np
import pytest

from encas.errors import InvalidInput

onnx = pytest.importorskip("onnx")
from encas.export.macs import count_graph_macs  # noqa: E402

helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


def graph(nodes: list[Any], weights: dict[str, Any], opset: int = 18) -> Any:
    """A graph from `x`, (n, 4, 6, 6), to `y`."""
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", 4, 6, 6])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, None)]
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def count(nodes: list[Any], opset: int = 18, **weights: Any) -> int:
    return count_graph_macs(graph(nodes, weights, opset), (4, 6, 6), "here")


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_a_convolution_sums_over_its_group_and_its_kernel() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])]
    assert count(nodes, w=zeros(8, 2, 3, 3)) == 8 * 3 * 3 * (2 * 3 * 3)


def test_a_transposed_convolution_spreads_every_input() -> None:
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])]
    assert count(nodes, w=zeros(4, 5, 2, 2)) == 4 * 6 * 6 * (5 * 2 * 2)


def test_a_linear_layer_may_be_a_gemm_or_a_product() -> None:
    flat = helper.make_node("Flatten", ["x"], ["f"])
    assert count([flat, helper.make_node("Gemm", ["f", "w"], ["y"])], w=zeros(144, 10)) == 1440
    assert count([flat, helper.make_node("Gemm", ["f", "w"], ["y"], transB=1)], w=zeros(10, 144)) == 1440
    assert count([flat, helper.make_node("Gemm", ["w", "f"], ["y"], transB=1)], w=zeros(10, 144)) == 1440
    turned = helper.make_node("Gemm", ["f", "w"], ["y"], transA=1)
    assert count([flat, turned], w=zeros(1, 10)) == 1440
    assert count([flat, helper.make_node("MatMul", ["f", "w"], ["y"])], w=zeros(144, 10)) == 1440


def test_every_matrix_of_a_stack_counts() -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    assert count(nodes) == 4 * 6 * 6 * 6


def test_an_einsum_costs_the_product_of_its_indices() -> None:
    nodes = [helper.make_node("Einsum", ["x", "w"], ["y"], equation="nchw,ck->nkhw")]
    assert count(nodes, w=zeros(4, 7)) == 4 * 6 * 6 * 7


def test_the_attention_operator_is_two_products() -> None:
    nodes = [helper.make_node("Attention", ["x", "x", "x"], ["y"])]
    try:
        found = count(nodes, opset=23)
    except InvalidInput as error:
        pytest.skip(f"this ONNX Runtime does not know the operator: {error}")
    assert found == 2 * 4 * 6 * 6 * 6


def test_additions_activations_and_normalisations_are_free() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["y"]),
    ]
    assert count(nodes) == 0


def test_shapes_that_the_graph_computes_are_known() -> None:
    """The padding comes out of a calculation that ONNX's shape inference gives up on."""
    nodes = [
        helper.make_node("Mul", ["pads", "two"], ["pads2"]),
        helper.make_node("Cast", ["pads2"], ["pads3"], to=onnx.TensorProto.INT64),
        helper.make_node("Pad", ["x", "pads3"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["y"]),
    ]
    pads = np.array([0, 0, 0.5, 0.5, 0, 0, 0.5, 0.5], np.float32)
    assert count(nodes, pads=pads, two=np.float32(2), w=zeros(3, 4, 3, 3)) == 3 * 6 * 6 * 36


def test_work_in_a_branch_cannot_be_counted() -> None:
    outputs = [helper.make_tensor_value_info("z", FLOAT, None)]
    branch = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["z"])], "b", [], outputs)
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    with pytest.raises(InvalidInput, match="here: node 'If' has convolutions or matrix products in a branch"):
        count(nodes, c=np.array(True))
