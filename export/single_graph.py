"""A cascade as one ONNX graph: what `encas.cascade.run_step` does, and early exits as nested `If` nodes.

A stage's members, and all stages behind it, lie in the branch that is taken if any sample stays. There the
samples that stay are gathered, and what becomes of them is scattered over what was known before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx.compose
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from encas.cascade import LEAST, Cascade
from encas.export import graph
from encas.export.nodes import Nodes
from encas.export.pixels import add_preparation
from encas.preprocess import Preprocess

OUTPUTS = ("probs", "exit_stage", "macs")


@dataclass(frozen=True)
class StageNetwork:
    """What one stage runs."""

    model: ModelProto  # of the opset of all others
    macs: int
    preparation: int  # which of the distinct ways to prepare an image it wants


@dataclass(frozen=True)
class Plan:
    """All that a graph is made of."""

    cascade: Cascade
    stages: tuple[StageNetwork, ...]
    preparations: tuple[Preprocess, ...]  # the distinct ones, in the order of the stages
    n_classes: int
    pixels: tuple[int, int, int] | None = None  # height, width, channels of images that are prepared inside

    @property
    def input_names(self) -> tuple[str, ...]:
        """One input of pixels, or a tensor for each way to prepare an image."""
        if self.pixels is not None or len(self.preparations) == 1:
            return ("image",)
        return tuple(f"image_{which}" for which in range(len(self.preparations)))


@dataclass(frozen=True)
class _Tensor:
    """Samples, of which only some rows are wanted by now; they are gathered when somebody needs them."""

    name: str
    rows: str | None = None

    def gathered(self, nodes: Nodes, name: str) -> "_Tensor":
        if self.rows is None:
            return self
        return _Tensor(nodes.add("Gather", [self.name, self.rows], name, axis=0))


@dataclass(frozen=True)
class _Samples:
    """What is known of the samples that get to a stage."""

    pixels: _Tensor | None
    tensors: tuple[_Tensor | None, ...]  # one for each preparation, None if it was not made yet
    total: str | None = None  # (a, c) probabilities of the stages so far, summed

    def only(self, nodes: Nodes, rows: str, total: str) -> "_Samples":
        """Keep some rows."""
        made: dict[str, str] = {}

        def fewer(tensor: _Tensor | None) -> _Tensor | None:
            if tensor is None or tensor.rows is None:
                return None if tensor is None else replace(tensor, rows=rows)
            if tensor.rows not in made:
                made[tensor.rows] = nodes.add("Gather", [tensor.rows, rows], f"rows_{len(made)}", axis=0)
            return replace(tensor, rows=made[tensor.rows])

        return _Samples(
            fewer(self.pixels),
            tuple(fewer(tensor) for tensor in self.tensors),
            nodes.add("Gather", [total, rows], "total", axis=0),
        )


def cascade_graph(plan: Plan) -> GraphProto:
    """Make the graph: images in; `probs` (n, c), `exit_stage` (n,) and `macs` (n,) out, n free."""
    nodes = Nodes("")
    probs, exit_stage = _add_stage(plan, 0, _inputs(plan), nodes)
    nodes.add("Identity", [probs], "probs")
    nodes.add("Identity", [exit_stage], "exit_stage")
    spent = np.cumsum([stage.macs for stage in plan.stages], dtype=np.int64)
    nodes.add("Gather", [nodes.constant(spent, "macs_up_to_stage"), exit_stage], "macs", axis=0)
    return nodes.graph("cascade", _input_infos(plan), _output_infos(OUTPUTS, plan.n_classes))


def _inputs(plan: Plan) -> _Samples:
    if plan.pixels is not None:
        return _Samples(_Tensor("image"), (None,) * len(plan.preparations))
    return _Samples(None, tuple(_Tensor(name) for name in plan.input_names))


def _input_infos(plan: Plan) -> list[ValueInfoProto]:
    if plan.pixels is not None:
        return [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *plan.pixels])]
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *spec.shape])
        for name, spec in zip(plan.input_names, plan.preparations, strict=True)
    ]


def _output_infos(names: Sequence[str], n_classes: int) -> list[ValueInfoProto]:
    probs, *counts = names
    infos = [helper.make_tensor_value_info(probs, TensorProto.FLOAT, ["batch", n_classes])]
    return infos + [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"]) for name in counts]


def _add_stage(plan: Plan, stage: int, samples: _Samples, nodes: Nodes) -> tuple[str, str]:
    """Add a stage and all behind it; return the names of probabilities and exit stages of its samples."""
    own = nodes.under(f"stage{stage}_")
    answer, samples = _add_member(plan, stage, samples, own)
    total, mean = _add_mean(plan, stage, samples.total, answer, own)
    n = own.add("Shape", [mean], "n", start=0, end=1)
    here = helper.make_tensor("stage", TensorProto.INT64, [1], [stage])
    exit_stage = own.add("ConstantOfShape", [n], "here", value=here)
    threshold = plan.cascade.stages[stage].threshold
    if threshold is None:
        return mean, exit_stage
    confidence = _add_confidence(plan, mean, n, own)
    leaves = own.add("Greater", [confidence, own.constant(np.float32(threshold), "threshold")], "leaves")
    index = own.add("NonZero", [own.add("Not", [leaves], "stays")], "index")
    rows = own.add("Squeeze", [index, own.constant(np.array([0]), "first_axis")], "rows")
    is_any = own.add("Greater", [own.add("Size", [rows], "n_stay"), own.constant(np.int64(0), "zero")], "any")

    inside = Nodes(f"stage{stage + 1}_in_")
    later = _add_stage(plan, stage + 1, samples.only(inside, rows, total), inside)
    places = inside.add("Transpose", [index], "places", perm=[1, 0])
    staying = [
        inside.add("ScatterND", [before, places, after], name)
        for name, before, after in zip(OUTPUTS[:2], (mean, exit_stage), later, strict=True)
    ]
    outside = Nodes(f"stage{stage + 1}_out_")
    leaving = [
        outside.add("Identity", [known], name)
        for name, known in zip(OUTPUTS[:2], (mean, exit_stage), strict=True)
    ]
    results = own.prefix + "out_probs", own.prefix + "out_exit_stage"
    branches: dict[str, Any] = {
        "then_branch": inside.graph("some_stay", [], _output_infos(staying, plan.n_classes)),
        "else_branch": outside.graph("all_leave", [], _output_infos(leaving, plan.n_classes)),
    }
    own.nodes.append(helper.make_node("If", [is_any], list(results), name=f"{own.prefix}if", **branches))
    return results


def _add_member(plan: Plan, stage: int, samples: _Samples, nodes: Nodes) -> tuple[str, _Samples]:
    """Add the network of a stage; return the name of its output, and the samples as they lie now."""
    network = plan.stages[stage]
    which = network.preparation
    tensor, pixels = samples.tensors[which], samples.pixels
    if tensor is None:
        assert pixels is not None and plan.pixels is not None
        pixels = pixels.gathered(nodes, "pixels")
        tensor = _Tensor(add_preparation(nodes, pixels.name, plan.pixels, plan.preparations[which]))
    tensor = tensor.gathered(nodes, "samples")
    tensors = tuple(tensor if other == which else known for other, known in enumerate(samples.tensors))
    place = plan.cascade.stages[stage].member
    model = onnx.compose.add_prefix(network.model, f"{nodes.prefix}member_")
    nodes.nodes.append(helper.make_node("Identity", [tensor.name], [graph.image_input(model, place).name]))
    nodes.take(model.graph)
    return graph.class_output(model, place).name, replace(samples, pixels=pixels, tensors=tensors)


def _add_mean(plan: Plan, stage: int, total: str | None, answer: str, nodes: Nodes) -> tuple[str, str]:
    """Add the arithmetic of `run_step`; return the names of the sum and of the answer."""
    half = nodes.add("Cast", [answer], "half", to=TensorProto.FLOAT16)
    rounded = nodes.add("Cast", [half], "rounded", to=TensorProto.FLOAT)
    if total is None or plan.cascade.combine == "last":
        return rounded, rounded
    total = nodes.add("Add", [total, rounded], "sum")
    return total, nodes.add("Div", [total, nodes.constant(np.float32(stage + 1), "n_summed")], "mean")


def _add_confidence(plan: Plan, mean: str, n: str, nodes: Nodes) -> str:
    """Add `encas.cascade.confidence_of`; return the name of the (a,) numbers."""
    axis = nodes.constant(np.array([1]), "class_axis")
    if plan.cascade.confidence == "max-probability":
        return nodes.add("ReduceMax", [mean, axis], "confidence", keepdims=0)
    if plan.n_classes < 2:
        surest = helper.make_tensor("surest", TensorProto.FLOAT, [1], [float(-np.log(LEAST))])
        return nodes.add("ConstantOfShape", [n], "confidence", value=surest)
    nodes.nodes.append(
        helper.make_node(
            "TopK",
            [mean, nodes.constant(np.array([2]), "two")],
            [f"{nodes.prefix}top2", f"{nodes.prefix}top2_classes"],
            name=f"{nodes.prefix}top2",
            axis=1,
        )
    )
    finite = nodes.add("Max", [f"{nodes.prefix}top2", nodes.constant(LEAST, "least")], "finite")
    logarithms = nodes.add("Log", [finite], "logarithms")
    columns = (nodes.constant(np.int64(column), f"column_{column}") for column in (0, 1))
    best, second = (nodes.add("Gather", [logarithms, column], f"log_{column}", axis=1) for column in columns)
    return nodes.add("Sub", [best, second], "confidence")
