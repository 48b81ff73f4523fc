"""OpenVINO's own files, made from an ONNX file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.empty_lists import compute_empty_lists
from lightning_automl_vision.export.facts import check_fit
from lightning_automl_vision.export.formats import FORMATS, Options
from lightning_automl_vision.export.runtime import IMAGES, Arrays, Run, threads
from lightning_automl_vision.export.writing import exporter, facts_of, graph_of
from lightning_automl_vision.model_folder import MODEL

if TYPE_CHECKING:
    from lightning_automl_vision.predictor import OpenedModel

READS = frozenset({"normalise", "precision", "quantise", "nms"})
TO_WRITE, TO_ASK = ("openvino", "onnx", "onnxscript", "onnxruntime"), ("openvino",)
EXTRA = "openvino"
FILES = FORMATS["openvino"]
_TELEMETRY = "openvino_telemetry"


def write(opened: OpenedModel, folder: Path, options: Options) -> Mapping[str, Any]:
    """``model.xml`` and ``model.bin``."""
    from lightning_automl_vision.export.onnx import write_graph

    openvino = _openvino()
    graph = graph_of(opened, options)
    with TemporaryDirectory() as place:
        file = Path(place) / "model.onnx"
        any_size = write_graph(graph, file, opened, replace(options, precision=32))
        with exporter("openvino", opened.card.name):
            compute_empty_lists(file)
            model = openvino.convert_model(str(file))
            openvino.save_model(model, str(Path(place) / FILES[0]), compress_to_fp16=options.precision == 16)
        for name in FILES:  # it says nothing of a disk that is full
            shutil.copyfile(Path(place) / name, folder / name)
    return facts_of(graph, opened, options, "openvino", FILES, any_size=any_size)


def opened(folder: Path, facts: Mapping[str, Any]) -> Run:
    """A model compiled for the CPU, which computes in 32 bits where it was exported so."""
    core = _openvino().Core()
    asked = {"INFERENCE_NUM_THREADS": threads(), "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    file = folder / FILES[0]
    try:
        model = core.compile_model(core.read_model(str(file)), "CPU", asked)
    except RuntimeError as error:
        raise ConfigError(f"{file} cannot be opened: {' '.join(str(error).split())[:300]}. Export it again.") from None
    known = {name for port in model.inputs for name in port.get_names()}
    outputs = list(facts["outputs"])
    inside = model.input(IMAGES).element_type == _openvino().Type.u8
    names = [next((name for name in outputs if name in port.get_names()), port.any_name) for port in model.outputs]
    check_fit(folder / MODEL, facts, inside=inside, outputs=names)

    def run(inputs: Arrays) -> Arrays:
        answer = model({name: value for name, value in inputs.items() if name in known})
        return {name: np.array(answer[name]) for name in outputs}

    return run


def _openvino() -> Any:
    """OpenVINO as it is where its telemetry is not installed: that tells a server of each import and conversion."""
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # how Python marks what cannot be imported
    import openvino

    return openvino
