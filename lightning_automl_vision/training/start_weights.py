"""``model.weights=FILE``: tensors from a local file, matched by name and shape."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_automl_vision.errors import WeightsError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.models import VisionModel

_PREFIXES = ("module.", "model.", "network.")
_NAMED = 6


def load_start_weights(model: VisionModel[Any, Any], file: str) -> None:
    """Fill the backbone; tensors of another shape, such as a head for other classes, are left out and named."""
    given = model.renamed({_bare(name): tensor for name, tensor in read_tensors(Path(file)).items()})
    backbone = model.backbone()
    own = {_bare(name): name for name in backbone.state_dict()}
    state = backbone.state_dict()
    fitting = {own[name]: given[name] for name in own if name in given and given[name].shape == state[own[name]].shape}
    if not any(value.is_floating_point() and value.ndim > 1 for value in fitting.values()):
        raise WeightsError(
            f"model.weights={file}: none of its {len(given)} tensors fits the model by name and shape"
            f" (its first is {next(iter(given), 'none')!r}, the model's {next(iter(own), 'none')!r})."
            " Choose the model that the file was made for."
        )
    backbone.load_state_dict(fitting, strict=False)
    report(file, loaded=len(fitting), new=[name for name in own if own[name] not in fitting])


def report(file: str, *, loaded: int, new: Sequence[str]) -> None:
    """What was left out is named; when that is most of the model it is a warning, for then the file is hardly meant."""
    names = ", ".join([*new[:_NAMED], *(["..."] if len(new) > _NAMED else [])])
    LOG.log(
        logging.WARNING if len(new) > loaded else logging.INFO,
        "model.weights=%s: %d of %d tensors loaded%s",
        file,
        loaded,
        loaded + len(new),
        f"; these start anew: {names}" if new else "",
    )


def read_tensors(file: Path) -> Mapping[str, Tensor]:
    """The state dict in a safetensors file, or in one that torch saved; nothing in it is executed."""
    if not file.is_file():
        raise WeightsError(f"model.weights={file}: no such file.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        values = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"model.weights={file}: it is no file of tensors, or it holds Python objects beside them, and loading those"
            " could run any code."
            " Save the state dict where the model was made: torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # safetensors, zip and torch each have their own
        raise WeightsError(f"model.weights={file}: it cannot be read: {' '.join(str(error).split())[:200]}") from None
    for nest in ("state_dict", "model_state_dict", "model"):
        if isinstance(values, dict) and isinstance(values.get(nest), dict):
            values = values[nest]
    if not isinstance(values, dict) or not any(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(f"model.weights={file}: it holds no tensors by name. Save a state dict.")
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name
