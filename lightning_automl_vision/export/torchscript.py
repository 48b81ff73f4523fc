"""TorchScript: a trace of the network, asked by torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.facts import check_fit
from lightning_automl_vision.export.formats import FORMATS, Options
from lightning_automl_vision.export.runtime import Run
from lightning_automl_vision.export.writing import example_side, exporter, facts_of, graph_of, unheard, write_whole
from lightning_automl_vision.model_folder import MODEL

if TYPE_CHECKING:
    from lightning_automl_vision.predictor import OpenedModel

READS = frozenset({"normalise", "nms"})
TO_WRITE = TO_ASK = ("torch", "torchvision")
EXTRA = None
(FILE,) = FORMATS["torchscript"]


def write(opened: OpenedModel, folder: Path, options: Options) -> Mapping[str, Any]:
    """``model.torchscript``."""
    import torch

    trace: Any = torch.jit.trace  # which has no types, as load has none
    graph = graph_of(opened, options)
    module = graph.module_with(normalising=options.normalising)
    with exporter("torchscript", opened.card.name), torch.no_grad():
        example = graph.example(example_side(opened), normalising=options.normalising)
        traced = torch.jit.freeze(trace(module, example, check_trace=False))
        write_whole(folder / FILE, partial(_save, traced))
    return facts_of(graph, opened, options, "torchscript", [FILE])


def _save(traced: Any, file: IO[bytes]) -> None:
    """All but where each line of it was written, on the machine that exports."""
    import torch

    save: Any = torch.jit.save
    content = io.BytesIO()
    save(traced, content)
    content.seek(0)
    reader, writer = torch._C.PyTorchFileReader(content), torch._C.PyTorchFileWriter(file)
    for name in reader.get_all_records():
        # What begins with a dot is torch's own, and it writes its version itself.
        if not name.endswith(".debug_pkl") and not name.startswith(".") and name != "version":
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def opened(folder: Path, facts: Mapping[str, Any]) -> Run:
    import torch
    import torchvision  # noqa: F401  # its operators are part of what detectors compute

    from lightning_automl_vision.export.graph import Normalising
    from lightning_automl_vision.export.torch_export import asked

    reopen: Any = torch.jit.load
    try:
        with unheard():
            module = reopen(str(folder / FILE), map_location="cpu")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{folder / FILE} cannot be opened: {reason}. Export it again.") from None
    inside = module.original_name == Normalising.__name__  # no type tells of pictures
    takes, gives = module.forward.schema.arguments, module.forward.schema.returns[0].type
    outputs = len(gives.elements()) if gives.kind() == "TupleType" else 1
    check_fit(folder / MODEL, facts, inside=inside, inputs=len(takes) - 1, outputs=outputs)
    return asked(module, facts)
