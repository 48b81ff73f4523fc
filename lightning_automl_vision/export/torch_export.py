"""torch.export's programs, asked by torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.facts import check_fit
from lightning_automl_vision.export.formats import FORMATS, Options
from lightning_automl_vision.export.runtime import Arrays, Run
from lightning_automl_vision.export.writing import (
    example_side,
    exporter,
    facts_of,
    graph_of,
    unheard,
    write_whole,
)
from lightning_automl_vision.model_folder import MODEL

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from lightning_automl_vision.export.graph import Graph
    from lightning_automl_vision.predictor import OpenedModel

READS = frozenset({"normalise", "nms"})
TO_WRITE = TO_ASK = ("torch",)
EXTRA = None
(FILE,) = FORMATS["torch_export"]
_LONGEST = 1 << 16


def write(opened: OpenedModel, folder: Path, options: Options) -> Mapping[str, Any]:
    """``model.pt2``."""
    import torch

    graph = graph_of(opened, options)
    if graph.branching:
        raise ConfigError(
            f"format=torch_export: torch.export cannot follow {opened.card.name}, which goes by the boxes it finds."
            f" {'Choose nms=outside, or another format.' if options.nms else 'Choose another format.'}"
        )
    example = graph.example(example_side(opened), normalising=options.normalising)
    module = graph.module_with(normalising=options.normalising)
    with exporter("torch_export", opened.card.name), torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=(_shapes(graph), *({} for _ in graph.more)))
        _forget_origin(program)
        write_whole(folder / FILE, partial(torch.export.save, program))
    any_size = not any(isinstance(side, int) for side in _pictures(program).shape[2:])
    return facts_of(graph, opened, options, "torch_export", [FILE], any_size=any_size)


def _pictures(program: ExportedProgram) -> Tensor:
    """As the program takes them; without a tensor's numbers. Each network has a name of its own for them."""
    first = program.graph_signature.user_inputs[0]
    pictures: Tensor = next(node for node in program.graph.nodes if node.name == first).meta["val"]
    return pictures


def _forget_origin(program: ExportedProgram) -> None:
    """Where each node was written, on the machine that exports."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            node.meta.pop("stack_trace", None)


def _shapes(graph: Graph) -> dict[int, Any]:
    from torch.export import Dim

    if graph.multiple == 1:
        return dict.fromkeys(graph.axes, Dim.AUTO)
    sides = {
        axis: graph.multiple * Dim(name, max=_LONGEST // graph.multiple) for axis, name in graph.axes.items() if axis
    }
    return {0: Dim.AUTO, **sides}


def opened(folder: Path, facts: Mapping[str, Any]) -> Run:
    import torch

    try:
        with unheard():
            program = torch.export.load(str(folder / FILE))
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{folder / FILE} cannot be opened: {reason}. Export it again.") from None
    inside, told = _pictures(program).dtype == torch.uint8, program.graph_signature
    inputs, outputs = len(told.user_inputs), len(told.user_outputs)
    check_fit(folder / MODEL, facts, inside=inside, inputs=inputs, outputs=outputs)
    return asked(program.module(check_guards=False), facts)  # they forbid pictures of one stride's height


def asked(module: Callable[..., Any], facts: Mapping[str, Any]) -> Run:
    """A module of torch as a runtime; inputs come in the order that ``facts`` tell."""
    import numpy as np
    import torch

    from lightning_automl_vision.export.graph import named

    def run(inputs: Arrays) -> Arrays:
        tensors = (torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in facts["inputs"])
        with torch.inference_mode():
            return named(dict.fromkeys(facts["outputs"]), module(*tensors))

    return run
