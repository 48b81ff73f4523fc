"""An exported network, asked without torch: its folder is read, its runtime opened, its answers made predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_automl_vision.data.resizing import CenterCrop, Letterbox
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.export.facts import refused
from lightning_automl_vision.export.formats import check_packages, format_named
from lightning_automl_vision.installed import require_torch
from lightning_automl_vision.model_folder import INFERENCE, LABELS, MODEL, SETTINGS, chosen_parameters
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.process import usable_cores
from lightning_automl_vision.samples import Pixels, ScoredLabels

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
    """A ``Network`` of the predictor; ``run`` takes uint8 pictures, however the graph wants them.

    ``folder`` is where it was exported to, ``classes`` how many there are.
    """

    run: Run
    answers: Answers
    folder: Path
    classes: int

    def __call__(self, pictures: Sequence[Pixels]) -> Sequence[Prediction]:
        """WeightsError for a class that there is not: whatever a runtime says, none is called by another's name."""
        predictions = self.answers(self.run, pictures)
        for fault in filter(None, map(self._fault, predictions)):
            raise WeightsError(
                f"{self.folder}: the exported network answers with {fault}, and {LABELS} names {self.classes}, from 0"
                " on. Export the run again; where that answers so too, in another format."
            )
        return predictions

    def _fault(self, prediction: Prediction) -> str | None:
        if isinstance(prediction, ScoredLabels):
            count = len(prediction.scores)
            return None if count == self.classes else f"scores of {count} classes"
        strange = [label for label in prediction.labels.tolist() if not 0 <= label < self.classes]
        return f"class {strange[0]}" if strange else None


def exported_network(opened: OpenedModel) -> ExportedNetwork:
    """The network of an exported folder; ConfigError where its settings ask for what is fixed in it."""
    facts = opened.card.exported
    assert facts is not None
    name = facts["format"]
    answers = answers_of(opened, facts)
    if "torch" in format_named(name).TO_ASK:
        require_torch(f"{opened.folder}, exported as {name},")
    check_packages(name, writing=False)
    run, classes = _run_of(opened, facts), len(opened.card.labels)
    return ExportedNetwork(run=run, answers=answers, folder=opened.folder, classes=classes)


def _run_of(opened: OpenedModel, facts: Mapping[str, Any]) -> Run:
    missing = [file for file in facts["files"] if not (opened.folder / file).is_file()]
    if missing:
        raise ConfigError(f"{opened.folder / missing[0]} is missing. Copy the whole folder, or export again.")
    run = _as_told(format_named(facts["format"]).opened(opened.folder, facts), facts, opened.folder / MODEL)
    return run if facts["normalise"] == "inside" else normalised(run, facts["mean"], facts["std"])


def _as_told(run: Run, facts: Mapping[str, Any], source: Path) -> Run:
    """ConfigError for inputs that nobody gives, and where an output is asked for that there is not."""

    class Told(dict[str, NDArray[Any]]):
        def __missing__(self, name: str) -> NDArray[Any]:
            raise refused(source, "outputs", facts["outputs"], f"must hold {name!r}, which is read")

    def asked(inputs: Arrays) -> Arrays:
        if strange := [name for name in facts["inputs"] if name not in inputs]:
            raise refused(source, "inputs", facts["inputs"], f"must be among {', '.join(inputs)}, not {strange[0]!r}")
        return Told(run(inputs))

    return asked


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
    for name, value in facts["fixed"].items():
        if parameters[name] != value:
            raise ConfigError(
                f"{source}: {INFERENCE.get(name, name)}={parameters[name]!r}, and the exported network holds {value!r}."
                " Write that, or export the run again with the other setting."
            )
    for name, value in facts["at_most"].items():
        if parameters[name] > value:
            raise ConfigError(
                f"{source}: {INFERENCE.get(name, name)}={parameters[name]!r}, and the exported network gives {value!r}"
                " at most. Write less, or export the run again with the other setting."
            )
    size = facts["image_size"]
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
