"""An exported network, asked without torch: its folder is read, its runtime opened, its answers made predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.data.resizing import CenterCrop, Letterbox
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.formats import FORMATS, check_packages, format_named
from lightning_automl_vision.installed import require_torch
from lightning_automl_vision.model_folder import INFERENCE, MODEL, SETTINGS, chosen_parameters
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.process import usable_cores
from lightning_automl_vision.samples import Pixels

if TYPE_CHECKING:
    from lightning_automl_vision.predictor import OpenedModel, Prediction

IMAGES, SCORE_THRESHOLD = "images", "score_threshold"
Arrays = Mapping[str, NDArray[Any]]
# A network as a runtime has it: inputs by name to outputs by name.
Run = Callable[[Arrays], Arrays]
# What shows pictures to a network and reads what it says: numpy alone.
Answers = Callable[[Run, Sequence[Pixels]], "Sequence[Prediction]"]


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """A ``Network`` of the predictor; ``run`` takes uint8 pictures, however the graph wants them."""

    run: Run
    answers: Answers

    def __call__(self, pictures: Sequence[Pixels]) -> Sequence[Prediction]:
        return self.answers(self.run, pictures)


def exported_network(opened: OpenedModel) -> ExportedNetwork:
    """The network of an exported folder; ConfigError where its settings ask for what is fixed in it."""
    facts = opened.card.exported
    assert facts is not None
    name = facts.get("format")
    if name not in FORMATS:
        raise ConfigError(
            f"{opened.folder / MODEL}: no format {name!r} is known, only {', '.join(FORMATS)}."
            " Use the version of lightning-automl-vision that exported it."
        )
    answers = answers_of(opened, facts)
    if "torch" in format_named(name).TO_ASK:
        require_torch(f"{opened.folder}, exported as {name},")
    check_packages(name, writing=False)
    return ExportedNetwork(run=_run_of(opened, facts), answers=answers)


def _run_of(opened: OpenedModel, facts: Mapping[str, Any]) -> Run:
    missing = [file for file in facts["files"] if not (opened.folder / file).is_file()]
    if missing:
        raise ConfigError(f"{opened.folder / missing[0]} is missing. Copy the whole folder, or export again.")
    run = format_named(facts["format"]).opened(opened.folder, facts)
    return run if facts["normalise"] == "inside" else normalised(run, facts["mean"], facts["std"])


def answers_of(opened: OpenedModel, facts: Mapping[str, Any]) -> Answers:
    """What reads the outputs, with the settings as they are now."""
    card, spec = opened.card, model_spec(opened.card.name)
    source = str(opened.folder / SETTINGS)
    parameters = chosen_parameters(card, spec.config, source)
    _check_fixed(opened, facts, parameters, source)
    path = spec.answers_for(card.task)
    if path is None:
        raise ConfigError(
            f"{card.name} {spec.export_refusal(facts['format'], card.task)}. Install the plugin it was made with."
        )
    answers: Answers = resolve_name(path)(name=card.name, task=card.task, parameters=parameters, facts=facts)
    return answers


def _check_fixed(opened: OpenedModel, facts: Mapping[str, Any], parameters: Mapping[str, Any], source: str) -> None:
    for name, value in facts.get("fixed", {}).items():
        if parameters[name] != value:
            raise ConfigError(
                f"{source}: {INFERENCE.get(name, name)}={parameters[name]!r}, and the exported network holds {value!r}."
                " Write that, or export the run again with the other setting."
            )
    for name, value in facts.get("at_most", {}).items():
        if parameters[name] > value:
            raise ConfigError(
                f"{source}: {INFERENCE.get(name, name)}={parameters[name]!r}, and the exported network gives {value!r}"
                " at most. Write less, or export the run again with the other setting."
            )
    size = facts.get("image_size")
    if size is not None and isinstance(opened.resizing, (CenterCrop, Letterbox)) and opened.resizing.size != size:
        raise ConfigError(
            f"{source}: valid_crop_size={opened.resizing.size}, and the exported network takes {size} pixels alone."
            " Write that."
        )


def normalised(run: Run, mean: Sequence[float], std: Sequence[float]) -> Run:
    """For a graph whose pictures come normalised."""
    by_channel = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    middle, spread = by_channel

    def with_normalised(inputs: Arrays) -> Arrays:
        return run({**inputs, IMAGES: (inputs[IMAGES].astype(np.float32) - middle) / spread})

    return with_normalised


def threads() -> int:
    """As torch counts them: OMP_NUM_THREADS, else the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isdigit() and int(asked) else usable_cores()
