"""A trained model as a folder: safetensors and JSON only, loaded without the configuration that trained it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.export.facts import check_facts
from lightning_automl_vision.keys import DescribedKey, described, nearest
from lightning_automl_vision.run import write_json
from lightning_automl_vision.settings import ModelConfig
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.storage import replacing, share, unreadable

if TYPE_CHECKING:
    from torch import nn

FORMAT_VERSION = 1
_BATCH_OF_CLASSIFIERS = 16
WEIGHTS, MODEL, SETTINGS, LABELS = "weights.safetensors", "model.json", "settings.json", "labels.json"
# What settings.json may say of written answers, for `lav predict`, under the documented names.
WRITTEN: Mapping[str, tuple[Any, ...]] = {"export_as_image": (False, True), "image_type": ("JPG", "PNG", "BMP")}
# What settings.json calls the model's parameters that may be changed after training.
INFERENCE = {
    "box_score_threshold": "box_score_thresh",
    "nms_iou_threshold": "nms_iou_thresh",
    "box_detections_per_image": "box_detections_per_img",
    "mask_pixel_score_threshold": "mask_pixel_score_threshold",
    "max_number_of_polygon_points": "max_number_of_polygon_points",
}


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything but the weights that is needed to build the model again and to ask it.

    ``image_size`` is the side of the pictures that a classifier takes. ``exported`` is what is to be known of the
    network in a folder that `lav export` wrote, which has no weights that could be trained.
    """

    task: str
    name: str
    parameters: Mapping[str, Any]
    labels: Sequence[str]
    settings: Mapping[str, Any]
    image_size: int | None = None
    exported: Mapping[str, Any] | None = None

    @property
    def size_of_building(self) -> int | None:
        """What a builder is told; a detector, which takes pictures of any size, what each is told in training."""
        return self.image_size or TASKS[self.task].unused.get("validation_crop_size")

    @property
    def usual_batch_size(self) -> int:
        """How many pictures the model is shown at once where nobody says otherwise."""
        return _BATCH_OF_CLASSIFIERS if self.task.startswith("image_classification") else 1


def inference_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a model's parameters that settings.json holds, by their names there."""
    return {inside: parameters[name] for name, inside in INFERENCE.items() if name in parameters}


def parameter(card: ModelCard, name: str) -> Any:
    """One of those that settings.json may change, as it is now; None where the model has no such one."""
    spellings = (name, INFERENCE[name])
    given = (card.settings[spelling] for spelling in spellings if spelling in card.settings)
    return next(given, card.parameters.get(name))


def chosen_parameters(card: ModelCard, config: type[ModelConfig], source: str) -> dict[str, Any]:
    """What the model was built with, and in its place what settings.json says now, under either name."""
    parameters = dict(card.parameters)
    for name, inside in INFERENCE.items():
        given = {card.settings[spelling] for spelling in (name, inside) if spelling in card.settings}
        if len(given) > 1:
            raise ConfigError(f"{source}: {inside} and {name} are the same setting and differ. Keep one.")
        if given and name in parameters:
            parameters[name] = given.pop()
    for described_key in described(config, source):
        name = described_key.name.removeprefix(f"{source}.")
        value = parameters.get(name)
        if name in INFERENCE and name in parameters and (fault := _fault(described_key, value)):
            raise ConfigError(f"{source}: {INFERENCE[name]}={json.dumps(value)} {fault}.")
    return parameters


def check_settings(card: ModelCard, others: Mapping[str, str], *, source: str) -> None:
    """Refuse settings that nobody would read: neither the model nor, as ``others`` says, anyone else."""
    of_model = {name: inside for name, inside in INFERENCE.items() if name in card.parameters}
    known = {**others, **of_model, **{inside: inside for inside in of_model.values()}}
    if card.task == "image_instance_segmentation":
        known |= {name: name for name in WRITTEN}
    if "model_size" in card.parameters:
        known["model_size"] = "model_size"
    for name in card.settings:
        if name not in known:
            documented = ", ".join(dict.fromkeys(known.values()))
            hint = nearest(name, list(known))
            raise ConfigError(f"{source}: {card.name} has no setting {name!r}.{hint} There are {documented}.")
    _check_written(card, source)


def _check_written(card: ModelCard, source: str) -> None:
    """What neither the network nor its pictures depend on."""
    for name in WRITTEN.keys() & card.settings.keys():
        value = card.settings[name]
        if not any(value == one and type(value) is type(one) for one in WRITTEN[name]):
            allowed = ", ".join(json.dumps(one) for one in WRITTEN[name])
            raise ConfigError(f"{source}: {name}={json.dumps(value)} must be one of {allowed}.")
    size = card.parameters.get("model_size")
    if card.settings.get("model_size", size) != size:
        raise ConfigError(
            f"{source}: model_size={card.settings['model_size']!r}: the weights are those of model_size={size!r}, and"
            " another size has others. Write that, or train with model.model_size."
        )


def _fault(wanted: DescribedKey, value: Any) -> str | None:
    kind = int if wanted.type == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind):
        return f"must be {'an' if kind is int else 'a'} {wanted.allowed}"
    return wanted.key.fault(value)


def save_model(folder: Path, card: ModelCard, model: nn.Module) -> None:
    """Write the folder; ``model.json`` comes last, so that a folder which has one is whole."""
    from safetensors.torch import save_model as save_weights

    from lightning_automl_vision.delivery.companions import write_companions
    from lightning_automl_vision.result import versions

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as part:
        save_weights(model, str(part))
        share(part)
    write_json(folder / LABELS, list(card.labels))
    write_json(folder / SETTINGS, card.settings)
    write_companions(folder, card.name)
    description = {
        "format_version": FORMAT_VERSION,
        "task": card.task,
        "model": {"name": card.name, "parameters": card.parameters},
        **({} if card.image_size is None else {"image_size": card.image_size}),
        "classes": len(card.labels),
        "weights": WEIGHTS,
        "versions": versions(),
    }
    write_json(folder / MODEL, description)


def read_card(folder: str | Path) -> tuple[ModelCard, Path]:
    """The card in a model folder, or in the model folder of a run, and where it was found."""
    found = next((path for path in (Path(folder), Path(folder) / "model") if (path / MODEL).is_file()), None)
    if found is None:
        raise ConfigError(f"{folder} holds no model: there is no {MODEL} in it. Name a run's folder or its model/.")
    description = _read(found / MODEL)
    if not isinstance(description, dict):
        raise ConfigError(f"{found / MODEL} does not describe a model. Copy the folder again.")
    if description.get("format_version") != FORMAT_VERSION:
        raise ConfigError(_unknown_format(found / MODEL, description))
    try:
        card = ModelCard(
            task=description["task"],
            name=description["model"]["name"],
            parameters=dict(description["model"]["parameters"]),
            image_size=description.get("image_size"),
            exported=description.get("exported"),
            labels=_read(found / LABELS),
            settings=_read(found / SETTINGS),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{found / MODEL} does not describe a model ({error!r}). Copy the folder again.") from None
    _check_card(card, found, description.get("classes"))
    if "exported" in description:
        check_facts(found / MODEL, card.exported, card.parameters)
    return card, found


def _check_card(card: ModelCard, found: Path, count: Any) -> None:
    """``count`` is that of the classes, None in a folder that an older version wrote."""
    if card.task not in TASKS:
        raise ConfigError(f"{found / MODEL}: task={card.task!r} is none of {', '.join(TASKS)}.")
    if type(card.size_of_building) is not int:
        raise ConfigError(f"{found / MODEL}: image_size={card.image_size!r} must be an integer. Copy the folder again.")
    if not isinstance(card.settings, dict):
        raise ConfigError(f"{found / SETTINGS}: a JSON object is expected.")
    names = card.labels
    if not isinstance(names, list) or len({*map(str, names)}) < len(names) or not all(type(n) is str for n in names):
        raise ConfigError(f"{found / LABELS}: a JSON list of different names is expected.")
    if empty := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise ConfigError(f"{found / LABELS}: the name of class {empty[0]} is empty. Give it one.")
    if count not in (None, len(names)):
        raise ConfigError(
            f"{found / LABELS} names {len(names)} classes, and the model has {count}. Name each of them, in the order"
            " they had, or copy the model folder again."
        )


def _unknown_format(file: Path, description: Mapping[str, Any]) -> str:
    writer = description.get("versions", {}).get("lightning-automl-vision", "that wrote it")
    return (
        f"{file}: format_version {description.get('format_version')!r} is not known,"
        f" this version reads {FORMAT_VERSION}."
        f" Use lightning-automl-vision {writer}, or train again from the run's overrides.txt."
    )


def load_weights(model: nn.Module, file: Path) -> None:
    """Fill the model with the weights of a file that was written for it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        file.open("rb").close()  # safetensors calls whatever it may not open missing
        load_model(model, str(file), strict=True)
    except FileNotFoundError:
        raise WeightsError(f"{file} is missing. Copy the whole model folder.") from None
    except OSError as error:
        raise WeightsError(unreadable(file, error)) from None
    except (SafetensorError, RuntimeError) as error:
        what = "is damaged" if isinstance(error, SafetensorError) else "does not fit its model"
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise WeightsError(f"{file} {what}: {reason}. Copy the whole model folder again.") from None


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing. Copy the whole model folder.") from None
    except OSError as error:
        raise ConfigError(unreadable(file, error)) from None
    except _Twice as error:
        raise ConfigError(f"{file}: {error} is there twice. Keep one.") from None
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}.") from None


class _Twice(ValueError):
    """A key."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which json itself keeps the last of equal keys."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return values
