"""``lav convert-weights``: the tensors of a pickled YOLOv5 checkpoint as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.keys import key
from lightning_automl_vision.settings import JobConfig
from lightning_automl_vision.storage import replacing, share, writing

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Tensor]

SUFFIX = ".safetensors"
STRIDES = (8, 16, 32)
# A tensor that each layer has, by the kind of the layer.
_CONVOLUTIONS = {layer: "conv.weight" for layer in (0, 1, 3, 5, 7, 10, 14, 18, 21)}
_BLOCKS = {layer: "cv3.conv.weight" for layer in (2, 4, 6, 8, 13, 17, 20, 23)}
_LAYERS = {**_CONVOLUTIONS, **_BLOCKS, 9: "cv2.conv.weight", 24: "m.0.weight"}
_SIZES = {16: "nano", 32: "small", 48: "medium", 64: "large", 80: "extra_large"}
_COORDINATES = 5


@dataclass
class Config(JobConfig):
    """Write the tensors of a pickled YOLOv5 checkpoint (v6.0 or later) as safetensors; nothing in it is executed."""

    input: str = key("???", "The checkpoint to read, such as best.pt.")
    output: str = key("???", "The file to write, FILE.safetensors, for `model.weights`.")
    half: bool = key(False, "Write numbers of 16 bits, as published checkpoints hold them, not of 32.")


def run(settings: Settings) -> None:
    job = settings.job
    if not isinstance(job, Config):
        raise ConfigError(f"job={job.name} is not convert-weights.")
    convert_weights(job.input, job.output, half=job.half)


def convert_weights(source: str, output: str, *, half: bool = False) -> None:
    """Read, check and write; says what was found."""
    target = _target(output)
    if not Path(source).is_file():
        raise WeightsError(f"input={source}: no such file.")
    tensors = _with_bits(_tensors(source), source, half=half)
    check_layout(tensors, source)
    _write(tensors, target)
    print(_said(tensors, output))


def _target(output: str) -> Path:
    target = Path(output)
    if target.suffix != SUFFIX:
        raise ConfigError(f"output={output} must be a file that ends in {SUFFIX}.")
    if target.exists():
        raise ConfigError(f"output={output} exists already. Delete it, or name another file.")
    return target


def _tensors(source: str) -> Tensors:
    """Those of the average of weights where the checkpoint has one, else those of the model."""
    from torch import Tensor

    from lightning_automl_vision.pickled_tensors import is_module, module_tensors, read_pickled

    content = read_pickled(Path(source))
    candidates = [content.get("ema"), content.get("model")] if isinstance(content, dict) else [content]
    model = next(filter(is_module, candidates), None)
    if model is not None:
        return dict(module_tensors(model))
    if any(isinstance(value, Tensor) for part in [content, *candidates] for value in _values(part)):
        raise WeightsError(f"{source} holds tensors by name already: model.weights={source} takes it as it is.")
    raise WeightsError(f"{source} holds no model: there is neither one under 'ema' nor under 'model'.")


def _values(part: Any) -> list[Any]:
    return list(part.values()) if isinstance(part, dict) else []


def check_layout(tensors: Tensors, source: str) -> None:
    """Raise WeightsError for a network that is not this one, with what it is where that can be told."""
    layers = {int(name.split(".")[1]) for name in tensors if name.startswith("model.") and name.split(".")[1].isdigit()}
    lacking = [f"model.{layer}.{tail}" for layer, tail in _LAYERS.items() if f"model.{layer}.{tail}" not in tensors]
    reason = None
    if "model.0.conv.conv.weight" in tensors:
        reason = "it is of a release before v6.0, whose stem (Focus) and pooling (SPP) are others"
    elif "model.33.anchors" in tensors:
        reason = "it is one of the P6 networks, which have a fourth level"
    elif any(name.startswith("model.24.proto.") for name in tensors):
        reason = "it is made for masks"
    elif lacking:
        reason = f"it has no {lacking[0]}"
    elif "model.24.anchors" not in tensors or tuple(tensors["model.24.anchors"].shape) != (3, 3, 2):
        reason = "it has not three anchors on each of three levels"
    elif layers != {*_LAYERS}:
        reason = f"it has weights in layer {min(layers - {*_LAYERS})}"
    elif "model.0.conv.bias" in tensors:
        reason = "its norms were folded into the convolutions, so that it cannot be trained; convert one that was not"
    if reason:
        raise WeightsError(f"{source} does not hold the YOLOv5 detector of v6.0 or later: {reason}.")


def _with_bits(tensors: Tensors, source: str, *, half: bool) -> Tensors:
    import torch

    dtype = torch.float16 if half else torch.float32
    kept = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    for name, value in kept.items():
        if value.is_floating_point() and not value.isfinite().all():
            hint = " Leave out half=true." if tensors[name].isfinite().all() else ""
            raise WeightsError(f"{source}: {name} has numbers that are not finite.{hint}")
    return kept


def _write(tensors: Tensors, target: Path) -> None:
    from safetensors.torch import save_file

    with writing(target, "output"):
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, "output") as part:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata={"format": "pt"})
        share(part)


def _said(tensors: Tensors, output: str) -> str:
    numbers = sum(value.numel() for name, value in tensors.items() if name.endswith((".weight", ".bias")))
    classes = tensors["model.24.m.0.weight"].shape[0] // 3 - _COORDINATES
    levels = zip(tensors["model.24.anchors"].tolist(), STRIDES, strict=True)
    anchors = "; ".join(
        ", ".join(f"{width * stride:g} x {height * stride:g}" for width, height in level) for level, stride in levels
    )
    size = _SIZES.get(tensors["model.0.conv.weight"].shape[0])
    chosen = f"model=yolov5 model.model_size={size}" if size else "model=yolov5"
    return (
        f"{output}: {len(tensors)} tensors, {numbers:,} parameters, {classes} classes.\n"
        f"Anchors in pixels, level by level: {anchors}.\n"
        f"Start from it with {chosen} model.weights={output}"
    )
