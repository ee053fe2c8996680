"""Writing nodes of an ONNX graph one after the other, under names that no other part of it uses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper


class Nodes:
    """Nodes and constants of one graph, which may see those of the graphs around it."""

    def __init__(self, prefix: str) -> None:
        """Begin; all names start with `prefix`."""
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def under(self, prefix: str) -> "Nodes":
        """Write into the same graph, under names that start otherwise."""
        other = Nodes(prefix)
        other.nodes, other.constants = self.nodes, self.constants
        return other

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        output = f"{self.prefix}{name}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: NDArray[Any] | np.generic, name: str) -> str:
        """Add a constant, and return its name."""
        output = f"{self.prefix}{name}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), output))
        return output

    def take(self, graph: GraphProto) -> None:
        """Add what another graph is made of."""
        self.nodes += graph.node
        self.constants += graph.initializer

    def graph(
        self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> GraphProto:
        """Make a graph of them."""
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), initializer=self.constants)
