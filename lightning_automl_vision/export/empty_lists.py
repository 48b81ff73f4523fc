"""Lists of no numbers in an ONNX file, written so that OpenVINO reads them as such.

It reads a constant of shape [0] as one number, and a network that finds nothing would answer with an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto


def compute_empty_lists(file: Path) -> None:
    """Change the file in place: such constants become the outcome of an operation."""
    import onnx

    model = onnx.load(str(file))
    _compute_in(model.graph)
    onnx.save(model, str(file))


def _compute_in(graph: GraphProto) -> None:
    """In the branches that the graph chooses from too."""
    kept = [tensor for tensor in graph.initializer if not _is_empty(tensor)]
    computed = [
        node for tensor in graph.initializer if _is_empty(tensor) for node in _empty_list(tensor.name, tensor.data_type)
    ]
    nodes = [*computed, *(other for node in graph.node for other in _replaced(node))]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _replaced(node: NodeProto) -> Iterator[NodeProto]:
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name == "value" and _is_empty(attribute.t):
            yield from _empty_list(node.output[0], attribute.t.data_type)
            return
        if attribute.HasField("g"):
            _compute_in(attribute.g)
    yield node


def _is_empty(tensor: TensorProto) -> bool:
    return list(tensor.dims) == [0]


def _empty_list(name: str, data_type: int) -> Iterator[NodeProto]:
    """As many zeros as there are to be."""
    from onnx import helper, numpy_helper

    zero = numpy_helper.from_array(np.zeros(1, helper.tensor_dtype_to_np_dtype(data_type)))
    length = numpy_helper.from_array(np.zeros(1, np.int64))
    yield helper.make_node("Constant", [], [f"{name}.length"], value=length)
    yield helper.make_node("ConstantOfShape", [f"{name}.length"], [name], value=zero)
