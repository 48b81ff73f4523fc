"""A model repository for Triton Inference Server, around an exported ONNX network.

``NAME/1`` is the exported folder itself, so that `lav predict` can ask what the server was given; ``config.pbtxt`` says
what its ONNX file takes and gives, and is held against that file.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.model_folder import read_card
from lightning_automl_vision.run import write

ONNX, CONFIG, LABELS, VERSION = "model.onnx", "config.pbtxt", "labels.txt", "1"
_MOST_PICTURES = 16
_DELAY = 5000  # microseconds that a batch waits for pictures that are on their way
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# What onnxruntime calls a tensor of numbers, to what Triton calls them.
_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(bool)": "TYPE_BOOL",
}
_BLOCK = re.compile(r'^(input|output) \[\s*\{\s*name: "(.*?)"\s*data_type: (\w+)\s*dims: \[(.*?)\]', re.MULTILINE)
_BATCH = re.compile(r"^max_batch_size: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What goes in or out; -1 where a length is free."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Signature:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def is_batched(self) -> bool:
        """Whether the first axis counts the pictures, in whatever goes in and out."""
        return all(tensor.dims[:1] == (-1,) and tensor.dims[1:] for tensor in (*self.inputs, *self.outputs))

    def as_told(self, *, batched: bool) -> Signature:
        """Where pictures come in batches, the axis that counts them is left out."""
        if not batched:
            return self
        inputs, outputs = ([replace(one, dims=one.dims[1:]) for one in some] for some in (self.inputs, self.outputs))
        return Signature(inputs=tuple(inputs), outputs=tuple(outputs))


def write_triton(exported: Path, output: Path, name: str) -> None:
    """The repository ``output`` with one model, from a folder that was exported as ONNX."""
    check_name(name)
    card, found = read_card(exported)
    model = output / name
    shutil.copytree(found, model / VERSION)
    signature = signature_of(model / VERSION / ONNX)
    classifies = card.task.startswith("image_classification")
    write(model / LABELS, "".join(f"{label}\n" for label in card.labels))
    write(model / CONFIG, config_text(name, signature, labelled=classifies and len(signature.outputs) == 1))
    check_config(model)


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"triton.name={name}: a model's name there has letters, digits, dots, hyphens and underscores only."
        )


def signature_of(file: Path) -> Signature:
    """As the runtime that Triton has sees it: what must be given, and what comes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def tensors(values: Sequence[Any]) -> Iterator[Tensor]:
        for value in values:
            dims = tuple(length if isinstance(length, int) else -1 for length in value.shape)
            yield Tensor(name=value.name, type=_TYPES[value.type], dims=dims)

    return Signature(inputs=tuple(tensors(session.get_inputs())), outputs=tuple(tensors(session.get_outputs())))


def config_text(name: str, signature: Signature, *, labelled: bool) -> str:
    """``labelled`` says that the numbers of the one output are the classes of labels.txt, in its order."""
    batched = signature.is_batched
    told = signature.as_told(batched=batched)
    parts = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {_MOST_PICTURES if batched else 0}",
        *(_block("input", tensor) for tensor in told.inputs),
        *(_block("output", tensor, LABELS if labelled else None) for tensor in told.outputs),
    ]
    if batched:
        parts.append(f"dynamic_batching {{\n  max_queue_delay_microseconds: {_DELAY}\n}}")
    return "".join(f"{part}\n" for part in parts)


def _block(kind: str, tensor: Tensor, labels: str | None = None) -> str:
    lines = [
        f'    name: "{tensor.name}"',
        f"    data_type: {tensor.type}",
        f"    dims: [{', '.join(map(str, tensor.dims))}]",
        *([] if labels is None else [f'    label_filename: "{labels}"']),
    ]
    return "\n".join([f"{kind} [", "  {", *lines, "  }", "]"])


def check_config(model: Path) -> None:
    """ConfigError where the config of a repository's model does not fit its ONNX file."""
    text, actual = (model / CONFIG).read_text(encoding="utf-8"), signature_of(model / VERSION / ONNX)
    size = _BATCH.search(text)
    batched = size is not None and int(size[1]) > 0
    if batched and not actual.is_batched:
        raise ConfigError(f"{model / CONFIG}: max_batch_size must be 0, as {ONNX} takes a fixed number of pictures.")
    wanted = actual.as_told(batched=batched)
    found = _BLOCK.findall(text)
    for kind, tensors in (("input", wanted.inputs), ("output", wanted.outputs)):
        told = tuple(_tensor(*words) for of, *words in found if of == kind)
        if told != tensors:
            raise ConfigError(
                f"{model / CONFIG}: {kind} is {_words(told)}, and {ONNX} has {_words(tensors)}. Export it again."
            )


def _tensor(name: str, type: str, dims: str) -> Tensor:
    return Tensor(name=name, type=type, dims=tuple(int(length) for length in dims.split(",") if length.strip()))


def _words(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{one.name} {one.type}{list(one.dims)}" for one in tensors) or "nothing"
