"""What ``training.checkpoint_run_id`` and ``training.checkpoint_path`` name, found and looked at; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.model_folder import MODEL, WEIGHTS, read_card
from lightning_automl_vision.run import check_no_sweep
from lightning_automl_vision.training.continuing import BEST, CHECKPOINTS, LAST, PREVIOUS

RUN, PATH = "training.checkpoint_run_id", "training.checkpoint_path"
_OUTPUTS = Path("outputs")


@dataclass(frozen=True, kw_only=True)
class EarlierModel:
    """``labels`` are its classes, as far as they stand beside the file; ``asked`` is the key that named it."""

    asked: str
    file: Path
    labels: Sequence[str] | None = None
    task: str | None = None
    model: str | None = None


def earlier_model(settings: Settings) -> EarlierModel | None:
    """None where neither key is given; ConfigError or WeightsError where what they name is not to be started from."""
    training = settings.training
    given = {RUN: training.checkpoint_run_id, PATH: training.checkpoint_path, "model.weights": settings.model.weights}
    named = [f"{key}={value}" for key, value in given.items() if value is not None]
    if training.checkpoint_run_id is None and training.checkpoint_path is None:
        return None
    if len(named) > 1:
        every = "both" if len(named) == 2 else "all"
        raise ConfigError(f"{' and '.join(named)} {every} say what to start from. Leave all but one of them out.")
    if training.checkpoint_run_id is not None:
        found = _of_run(named[0], _run(training.checkpoint_run_id))
    else:
        found = _of_path(named[0], Path(str(training.checkpoint_path)))
    _check(found, settings)
    return found


def _run(name: str) -> Path:
    """The folder itself, or the one of this path or of this name below outputs/."""
    folders = [folder for folder in (Path(name), _OUTPUTS / name) if folder.is_dir()]
    folders = folders[:1] or sorted(folder for folder in _OUTPUTS.glob(f"*/{Path(name).name}") if folder.is_dir())
    if len(folders) == 1:
        return folders[0]
    if folders:
        listed = ", ".join(map(str, folders))
        raise ConfigError(f"{RUN}={name}: several runs are called so: {listed}. Give the folder of one.")
    raise ConfigError(f"{RUN}={name}: there is no such folder, here or below {_OUTPUTS}/. Give the folder of a run.")


def _of_run(asked: str, run: Path) -> EarlierModel:
    check_no_sweep(run, asked)
    if any((folder / MODEL).is_file() for folder in (run, run / "model")):
        return _of_model_folder(asked, run)
    for name in (BEST, LAST, PREVIOUS):
        if (file := run / CHECKPOINTS / name).is_file():
            return _of_checkpoint(asked, file, run)
    raise WeightsError(f"{asked}: no model came of {run}, and no checkpoint is left in it. Choose another run.")


def _of_model_folder(asked: str, folder: Path) -> EarlierModel:
    card, found = read_card(folder)
    return EarlierModel(asked=asked, file=found / WEIGHTS, labels=tuple(card.labels), task=card.task, model=card.name)


def _of_checkpoint(asked: str, file: Path, run: Path) -> EarlierModel:
    """A run that was ended has no model folder yet, but the configuration that it began with."""
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return EarlierModel(asked=asked, file=file, task=config["task"]["name"], model=config["model"]["name"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return EarlierModel(asked=asked, file=file)


def _of_path(asked: str, path: Path) -> EarlierModel:
    if path.is_dir():
        return _of_run(asked, path)
    if not path.is_file():
        raise WeightsError(f"{asked}: no such file or folder. Name best.ckpt, last.ckpt or a model folder.")
    if path.name == WEIGHTS and path.with_name(MODEL).is_file():
        return _of_model_folder(asked, path.parent)
    return _of_checkpoint(asked, path, path.absolute().parent.parent)


def _check(found: EarlierModel, settings: Settings) -> None:
    for key, was, wanted in (
        ("task", found.task, settings.task.name),
        ("model", found.model, settings.model.name),
    ):
        if was is not None and was != wanted:
            raise WeightsError(
                f"{found.asked}: it was trained with {key}={was}, and this run has {key}={wanted}: their tensors do not"
                f" fit. Train with {key}={was}, or start from another run."
            )
