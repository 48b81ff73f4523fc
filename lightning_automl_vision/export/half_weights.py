"""The weights of an ONNX file in 16 bits: half the size, widened again when the file is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_LEAST = 64  # numbers; of fewer nothing is gained
_LARGEST = float(np.finfo(np.float16).max)


def halve_weights(file: Path) -> None:
    """Change the file in place; weights that 16 bits cannot hold stay as they are."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(file))
    kept, widened = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LEAST or np.abs(values).max() > _LARGEST:
            kept.append(tensor)
            continue
        name = f"{tensor.name}.half"
        kept.append(numpy_helper.from_array(values.astype(np.float16), name))
        widened.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*widened, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.save(model, str(file))
