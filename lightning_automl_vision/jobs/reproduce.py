"""``lav reproduce RUN``: a finished run is trained once more from its lock, and compared digit for digit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError, DataError, PluginError, ReproductionError
from lightning_automl_vision.lock import (
    CONFIG,
    Lock,
    differences,
    digest_of_configuration,
    files_of,
    manifests_of,
    plugin_of,
    read_lock,
)
from lightning_automl_vision.log import LOG
from lightning_automl_vision.result import FINISHED, PRUNED, RESULT, Result, read_result
from lightning_automl_vision.run import RunFolder, check_no_sweep, write_json
from lightning_automl_vision.settings import JobConfig, LimitsConfig
from lightning_automl_vision.written_settings import settings_in

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import DataSplits
    from lightning_automl_vision.reproduction import Comparison

REPORT, _BOARD = "reproduction.json", "leaderboard.json"
# What may be said anew: where things lie, and what changes no digit.
_FREE = ("job", "checkpoint", "output_dir", "quiet", "resume", "logger", "hydra")
_FREE_DATA = ("training", "validation", "test", "images", "cache", "url_prefixes")
_WORKERS = "training.number_of_workers"
_LONGEST_MINUTES = 86400.0
_THREADS = {"OMP_NUM_THREADS": "torch", "MKL_NUM_THREADS": "torch", "OPENCV_FOR_THREADS_NUM": "opencv"}


@dataclass
class Config(JobConfig):
    """Train a finished run, given as ``checkpoint``, once more, and say digit for digit if it comes out the same."""


def run(settings: Settings) -> None:
    if not isinstance(settings.job, Config):
        raise ConfigError(f"job={settings.job.name} is not reproduce.")
    reproduce(settings)


def reproduce(settings: Settings) -> Comparison:
    """ReproductionError where anything came out differently; the new folder holds all that did in any case."""
    folder = _folder(settings)
    was, lock = _finished(folder), read_lock(folder)
    _check_lock(folder, lock)
    again = settings_in(folder / CONFIG, _placed(settings, _output_dir(settings)), lock.overrides)
    again = _with_what_is_given(again, settings)
    RunFolder(again.output_dir).check()
    with _within(lock.working_folder):
        result, warnings = _trained_again(folder, again, was, lock)

    from lightning_automl_vision.reproduction import compare

    comparison = compare(folder, was, result, warnings=warnings)
    report = Path(result.folder) / REPORT
    write_json(report, {"run": str(folder.absolute()), "folder": result.folder, **comparison.as_dict()})
    if not settings.quiet:
        verdict = "the same, digit for digit" if comparison.same else "not the same"
        print(f"\n{comparison.text()}\n\n{folder} came out {verdict}.")
    if not comparison.same:
        raise ReproductionError(f"{folder} did not come out the same: {_what_differs(comparison)}. {report} has all.")
    return comparison


def _what_differs(comparison: Comparison) -> str:
    if first := comparison.first_different:
        return f"from epoch {first.epoch} on, where {first.differing[0]}"
    figure = next((figure for figure in comparison.figures if not figure.same), None)
    return str(figure) if figure else f"its weights are {comparison.weights}"


def _folder(settings: Settings) -> Path:
    """Of the run; refuses what would not be obeyed."""
    if settings.checkpoint is None:
        more = f" lav reproduce takes one run, not {settings.runs}." if settings.runs else ""
        raise ConfigError(f"checkpoint is not given.{more} Name a run's folder: lav reproduce RUN.")
    for name, value in given(settings.overrides):
        group, _, below = name.partition(".")
        if group not in _FREE and name != _WORKERS and not (group == "data" and below in _FREE_DATA):
            raise ConfigError(
                f"{name}={value}: a run is reproduced as it was. Leave it out; where the data lie may be said anew"
                f" ({', '.join(f'data.{key}' for key in _FREE_DATA)}), and {_WORKERS}, logger and output_dir."
            )
    folder = Path(settings.checkpoint)
    if not folder.is_dir():
        raise ConfigError(f"checkpoint={folder}: there is no such folder. Name the folder of a run.")
    return folder


def _finished(folder: Path) -> Result:
    check_no_sweep(folder)
    became, way_out = "has not ended", "Repeat its command with the same output_dir to finish it, then reproduce it."
    if (folder / RESULT).exists() or not (folder / CONFIG).exists():
        was = read_result(folder)
        if was.status in FINISHED:
            return was
        became = f"was {was.status}{_because(was.error)}"
    if row := _row_of(folder):
        became, way_out = f"is {row['state']}", "Repeat the command of its sweep, which goes on with it."
        if row["state"] == "failed":
            became, way_out = f"failed{_because(row['reason'])}", "Name another trial of the sweep."
    raise ConfigError(f"{folder} has no end that could be reached again: it {became}. {way_out}")


def _because(reason: str | None) -> str:
    return f": {reason.rstrip('.')}" if reason else ""


def _row_of(folder: Path) -> Mapping[str, Any] | None:
    """What the leaderboard of its sweep says of a trial; None for what is none."""
    folder = folder.absolute()
    try:
        rows = json.loads((folder.parent / _BOARD).read_text(encoding="utf-8"))["trials"]
        return next((row for row in rows if row["folder"] == folder.name), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_lock(folder: Path, lock: Lock) -> None:
    here = plugin_of(lock.model)
    if not here:
        version = lock.versions.get(f"plugin {lock.plugin}", "")
        raise PluginError(
            f"{folder} is of the model {lock.model}, whose plugin {lock.plugin!r} is not there. Install"
            f" {version or 'it'}{', or take it out of LAV_BLOCK_PLUGINS' if 'LAV_BLOCK_PLUGINS' in os.environ else ''}."
        )
    if digest_of_configuration(folder) != lock.configuration:
        raise ConfigError(
            f"{folder / CONFIG} was changed after the run, so that it is not what was trained. Restore the file, or"
            " train with it by a command of its own."
        )


def _output_dir(settings: Settings) -> str:
    """As given, else beside other runs under a name of its own."""
    path = Path(settings.output_dir)
    if "output_dir" not in dict(given(settings.overrides)):
        path = path.parents[1] / "reproduce" / path.name
    return str(path.absolute())


def _placed(command: Settings, output_dir: str) -> Settings:
    """With trackers that write there too."""
    logger = {
        name: {**node, "save_dir": output_dir} if node.get("save_dir") == command.output_dir else node
        for name, node in command.logger.items()
    }
    return replace(command, output_dir=output_dir, logger=logger)


def _with_what_is_given(again: Settings, command: Settings) -> Settings:
    """The few things that may be said anew; no time limit cuts the run short where its own did not."""
    names = {name for name, _ in given(command.overrides)}
    data = {key: _absolute(getattr(command.data, key)) for key in _FREE_DATA if f"data.{key}" in names}
    training = again.training
    if _WORKERS in names:
        training = replace(training, number_of_workers=command.training.number_of_workers)
    limits = LimitsConfig(timeout_minutes=_LONGEST_MINUTES)
    return replace(again, data=replace(again.data, **data), training=training, limits=limits)


def _absolute(place: Any) -> Any:
    return os.path.abspath(place) if isinstance(place, str) and "://" not in place else place


def _trained_again(folder: Path, again: Settings, was: Result, lock: Lock) -> tuple[Result, list[str]]:
    """Nothing that computes is imported before the number of threads is known."""
    with _threads(lock.threads):
        from lightning_automl_vision.jobs.train import train_model
        from lightning_automl_vision.training.ending import LAST_STEP
        from lightning_automl_vision.training.fit import batches_of_a_step

        again, warnings = _on_its_device(again, lock)
        _check_files(folder, again, lock)
        _check_data(folder, again, lock)
        warnings += [f"{line}." for line in differences(lock)]
        step = _last_step(folder, again) if was.status in ("timeout", PRUNED) else None
        if step is not None:
            why = "its time limit" if was.status == "timeout" else "a policy"
            LOG.info("%s was ended by %s after step %d, and so far it is trained again.", folder, why, step)
            if was.status == "timeout" and batches_of_a_step(again.training) > 1:
                warnings.append("its time was over perhaps between two batches of a step, which cannot be repeated.")
        for line in warnings:
            LOG.warning("%s: %s Digits may differ for it.", folder, line)
        token = LAST_STEP.set(step)
        try:
            return train_model(again), warnings
        finally:
            LAST_STEP.reset(token)


@contextmanager
def _threads(numbers: Mapping[str, int]) -> Iterator[None]:
    """As many as the run had: in the environment while nothing that reads it is imported, and by call in any case."""
    if "torch" not in sys.modules:
        os.environ |= {name: str(numbers[library]) for name, library in _THREADS.items()}
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    if before[0] != numbers["torch"]:
        torch.set_num_threads(numbers["torch"])
    if before[1] != numbers["opencv"]:
        cv2.setNumThreads(numbers["opencv"])
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _on_its_device(again: Settings, lock: Lock) -> tuple[Settings, list[str]]:
    """On the device that it had, where there is one; ``auto`` may mean another here."""
    from lightning_automl_vision.training.devices import device_of

    here = device_of("auto")
    if lock.device in ("cpu", here):
        return replace(again, trainer=replace(again.trainer, accelerator=lock.device)), []
    again = replace(again, trainer=replace(again.trainer, accelerator="auto"))
    return again, [f"it was trained on {lock.device}, and this machine has {here} alone."]


def _check_files(folder: Path, again: Settings, lock: Lock) -> None:
    now = files_of(again)
    for key, digest in lock.files.items():
        if now.get(key) != digest:
            group, _, name = key.partition(".")
            path = getattr(getattr(again, group), name)
            what = "is not what it was" if key in now else "is not there any more"
            raise ConfigError(f"{folder} cannot be reproduced: {key}={path} {what}. Restore the file.")


def _check_data(folder: Path, again: Settings, lock: Lock) -> None:
    from lightning_automl_vision.data.labelled import load_data, load_folds
    from lightning_automl_vision.data.manifest import difference

    asked = again.data, again.task.name
    with _unheard():
        data: DataSplits[Any] = (
            load_folds(*asked, seed=lock.random_seed).first()
            if again.data.folds
            else load_data(*asked, seed=lock.random_seed)
        )
    sets = {"training": data.training, "validation": data.validation, "test": data.test}
    for role, now in manifests_of(data).items():
        images, was = sets[role], lock.data.get(role)
        changed = "it had none" if was is None else difference(was, now, images) if images is not None else None
        if changed:
            raise DataError(
                f"{folder} cannot be reproduced: its {role} images, from {data.training.source}, have changed:"
                f" {changed}. Restore them, or say where they lie."
            )
    LOG.info("The data are those of %s: %d images to train on.", folder, len(data.training))


@contextmanager
def _unheard() -> Iterator[None]:
    """What is said of the data is said again by the training."""
    LOG.disabled = True
    try:
        yield
    finally:
        LOG.disabled = False


def _last_step(folder: Path, again: Settings) -> int:
    """Of a run that was ended before its last epoch."""
    from lightning_automl_vision.reproduction import evaluations_in

    if again.data.folds:
        raise ConfigError(
            f"{folder}: the folds were ended before the last of them, and cannot be ended so again. Reproduce one that"
            f" was finished, such as {folder}/fold_0."
        )
    lines = evaluations_in(folder)
    if not lines:
        raise ConfigError(
            f"{folder}: it was ended before its last epoch, and without metrics.jsonl nobody knows where."
            " Name the trial's own folder."
        )
    return int(lines[-1]["step"])


def _within(working_folder: str) -> Any:
    """Relative paths of the configuration start there."""
    folder = Path(working_folder)
    return chdir(folder) if folder.is_dir() else nullcontext()
