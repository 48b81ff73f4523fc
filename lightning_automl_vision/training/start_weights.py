"""``model.weights=FILE``: tensors from a local file, matched by name and shape."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from lightning_automl_vision.data.classes import shown_names
from lightning_automl_vision.errors import WeightsError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.model_folder import LABELS
from lightning_automl_vision.models import VisionModel

_PREFIXES = ("module.", "model.", "network.")
_NAMED = 6


def start_from(
    model: VisionModel[Any, Any], file: str, classes: Sequence[str], build: Callable[[int], VisionModel[Any, Any]]
) -> None:
    """Fill the model as far as the file fits it; what another model folder says of other classes is left out.

    ``build`` makes the same model for so many classes.
    """
    others = other_classes(file, classes)
    if others is None:
        load_start_weights(model, file)
        return
    LOG.info(
        "model.weights=%s: made for the classes %s, not for %s: what depends on classes starts anew.",
        file,
        shown_names(others),
        shown_names(classes),
    )
    load_start_weights(model, file, without=heads(model, build, len(classes)))


def load_start_weights(model: VisionModel[Any, Any], file: str, *, without: Collection[str] = ()) -> None:
    """Fill the backbone; tensors of another shape, and those of its own that are named, are left out and named."""
    given = model.renamed({bare(name): tensor for name, tensor in read_tensors(Path(file)).items()})
    backbone = model.backbone()
    state = backbone.state_dict()
    own = {bare(name): name for name in state}
    asked = [name for name in own if name in given and own[name] not in without]
    fitting = {own[name]: given[name] for name in asked if given[name].shape == state[own[name]].shape}
    if not any(value.is_floating_point() and value.ndim > 1 for value in fitting.values()):
        raise WeightsError(
            f"model.weights={file}: none of its {len(given)} tensors fits the model by name and shape"
            f" (its first is {next(iter(given), 'none')!r}, the model's {next(iter(own), 'none')!r})."
            " Choose the model that the file was made for."
        )
    backbone.load_state_dict(fitting, strict=False)
    faulty = next((name for name, value in fitting.items() if not value.isfinite().all()), None)
    if faulty is not None:
        raise WeightsError(f"model.weights={file}: {faulty} has numbers that are not finite. Take another file.")
    report(file, loaded=len(fitting), new=[name for name in own if own[name] not in fitting])


def other_classes(file: str, classes: Sequence[str]) -> Sequence[str] | None:
    """What a model folder's file of weights was trained to tell apart, where it is not the same in the same order."""
    try:
        names = json.loads(Path(file).with_name(LABELS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known and names != list(classes) else None


def heads(model: VisionModel[Any, Any], build: Callable[[int], VisionModel[Any, Any]], classes: int) -> Collection[str]:
    """The tensors of the backbone that depend on the number of classes: a model with one more has them larger."""
    with torch.random.fork_rng(devices=[]):
        larger = build(classes + 1).backbone().state_dict()
    return {name for name, value in model.backbone().state_dict().items() if value.shape != larger[name].shape}


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
    asked = f"model.weights={file}"
    return tensors_in(read_values(file, asked), asked)


def read_values(file: Path, asked: str) -> Any:
    """What a file of tensors holds; ``asked`` is the key and the value that named it, for errors."""
    if not file.is_file():
        raise WeightsError(f"{asked}: no such file.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if _holds_a_module(file):
            raise WeightsError(
                f"{asked}: it holds a whole model object, and loading that could run any code."
                f" Of a YOLOv5 checkpoint lav convert-weights input={file} output={file.stem}.safetensors takes the"
                " tensors; of another save the state dict where it was made: torch.save(model.state_dict(), FILE)."
            ) from None
        raise WeightsError(
            f"{asked}: it is no file of tensors, or it holds Python objects beside them, and loading those"
            " could run any code."
            " Save the state dict where the model was made: torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:  # safetensors, zip and torch each have their own
        reason = "it is empty" if not file.stat().st_size else "it is torn or no checkpoint"
        detail = shorten(str(error).partition(". ")[0], 120, placeholder=" …")
        raise WeightsError(f"{asked}: {reason}{f' ({detail})' if detail else ''}. Copy it again.") from None


def tensors_in(values: Any, asked: str) -> Mapping[str, Tensor]:
    """Those of a state dict, or of one that is nested in it."""
    for nest in ("state_dict", "model_state_dict", "model"):
        if isinstance(values, dict) and isinstance(values.get(nest), dict):
            values = values[nest]
    if not isinstance(values, dict) or not any(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(f"{asked}: it holds no tensors by name. Save a state dict.")
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _holds_a_module(file: Path) -> bool:
    """Whether a torch module was pickled into it; what a module is made of is named in the pickle."""
    try:
        with zipfile.ZipFile(file) as archive:
            pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    except (OSError, StopIteration, zipfile.BadZipFile):
        return False
    return b"_modules" in pickled and b"_parameters" in pickled


def bare(name: str) -> str:
    """Without what wraps a network, in whatever file."""
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name
