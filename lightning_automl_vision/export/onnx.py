"""ONNX files, asked by onnxruntime."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.facts import check_fit
from lightning_automl_vision.export.formats import FORMATS, Options
from lightning_automl_vision.export.half_weights import halve_weights
from lightning_automl_vision.export.runtime import IMAGES, Arrays, Run, answers_of, normalised, threads
from lightning_automl_vision.export.writing import axes_of, example_side, exporter, facts_of, graph_of
from lightning_automl_vision.model_folder import MODEL

if TYPE_CHECKING:
    from onnx import ModelProto

    from lightning_automl_vision.export.graph import Graph
    from lightning_automl_vision.predictor import OpenedModel

READS = frozenset({"normalise", "precision", "quantise", "nms"})
TO_WRITE, TO_ASK = ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)
EXTRA = "export"
(FILE,) = FORMATS["onnx"]
# What the two exporters of torch are asked for.
OPSET, OPSET_OF_TRACES = 20, 17
_ERRORS_ALONE = 3


def write(opened: OpenedModel, folder: Path, options: Options) -> Mapping[str, Any]:
    """``model.onnx``; the inputs beside the pictures need not be given."""
    import onnx

    graph = graph_of(opened, options)
    any_size = write_graph(graph, folder / FILE, opened, options)
    if graph.more:
        _give_defaults(folder / FILE, graph)
    onnx.checker.check_model(str(folder / FILE))
    return facts_of(graph, opened, options, "onnx", [FILE], any_size=any_size)


def write_graph(graph: Graph, file: Path, opened: OpenedModel, options: Options) -> bool:
    """The file; gives whether the network takes pictures of any size."""
    import onnx

    example = graph.example(example_side(opened), normalising=options.normalising)
    export = _traced if graph.branching or graph.multiple > 1 else _exported
    with exporter("onnx", opened.card.name):
        model = export(graph, example, options)
        _forget_origin(model)
        _name_axes(model, graph)
        onnx.save(model, str(file))
        if options.quantise is not None:
            _quantise(graph, file, opened, options)
        if options.precision == 16:
            halve_weights(file)
    return all(dimension.dim_param for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:])


def _quantise(graph: Graph, file: Path, opened: OpenedModel, options: Options) -> None:
    from lightning_automl_vision.export.quantising import inputs_of, quantise

    facts = facts_of(graph, opened, options, "onnx", [])
    run, answers = _asked(_session_of(file), list(graph.outputs)), answers_of(opened, facts)

    def prepared(given: Run) -> Run:
        return given if options.normalising else normalised(given, graph.mean, graph.std)

    given = inputs_of(run, answers, options.calibration, graph.inputs, prepared)
    quantise(file, given, sensitive=graph.sensitive)


def _exported(graph: Graph, example: Sequence[Any], options: Options) -> ModelProto:
    """By torch's exporter, which follows shapes."""
    import torch

    module = graph.module_with(normalising=options.normalising)
    free = {axis: torch.export.Dim.AUTO for axis in graph.axes}
    program = torch.onnx.export(
        module,
        tuple(example),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        dynamic_shapes=(free, *({} for _ in graph.more)),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _traced(graph: Graph, example: Sequence[Any], options: Options) -> ModelProto:
    """By the exporter that torch had before: what goes by the numbers found is beyond the other one.

    Everything that knows of it is this function.
    """
    import onnx
    import torch

    content: Any = io.BytesIO()  # which it takes, whatever its types say
    module = graph.module_with(normalising=options.normalising)
    with torch.no_grad():
        torch.onnx.export(
            module,
            tuple(example),
            content,
            dynamo=False,
            opset_version=OPSET_OF_TRACES,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes_of(graph),
        )
    model: ModelProto = onnx.load_from_string(content.getvalue())
    return model


def _forget_origin(message: Any) -> None:
    """Where each part was written, on the machine that exports."""
    for name in ("doc_string", "metadata_props"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                _forget_origin(part)


def _name_axes(model: ModelProto, graph: Graph) -> None:
    """Free axes by their names here; an exporter numbers them, and each number is told everywhere alike."""
    pictures = model.graph.input[0].type.tensor_type.shape.dim
    names = {pictures[axis].dim_param: name for axis, name in graph.axes.items() if pictures[axis].dim_param}
    if 0 in graph.axes and not pictures[0].dim_param:
        raise ConfigError("This network answers for a fixed number of pictures alone, so that it cannot be exported.")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                words = re.split(r"(\w+)", dimension.dim_param)
                dimension.dim_param = "".join(names.get(word, word) for word in words)


def _give_defaults(file: Path, graph: Graph) -> None:
    """An input that is an initialiser too has that value where it is not given."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(file))
    for name, value in graph.more.items():
        model.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
    onnx.save(model, str(file))


def opened(folder: Path, facts: Mapping[str, Any]) -> Run:
    session = _session_of(folder / FILE)
    (inside,) = (value.type == "tensor(uint8)" for value in session.get_inputs() if value.name == IMAGES)
    check_fit(folder / MODEL, facts, inside=inside, outputs=[value.name for value in session.get_outputs()])
    return _asked(session, list(facts["outputs"]))


def _session_of(file: Path) -> Any:
    """On the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ALONE
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common ancestor but this
        raise ConfigError(f"{file} cannot be opened: {' '.join(str(error).split())[:300]}. Export it again.") from None


def _asked(session: Any, outputs: Sequence[str]) -> Run:
    """It is given what it knows of the inputs."""
    every = (*session.get_inputs(), *session.get_overridable_initializers())
    known = {value.name for value in every}

    def run(inputs: Arrays) -> Arrays:
        given = {name: value for name, value in inputs.items() if name in known}
        return dict(zip(outputs, session.run(outputs, given), strict=True))

    return run
