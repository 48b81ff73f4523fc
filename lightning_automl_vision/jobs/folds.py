"""``data.folds=k``: k trainings, each validated on a part of its own, and what they say together of every image."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError, Interrupted, VisionError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.result import FINISHED, PRUNED, RESULT, PrimaryMetric, Result, read_result
from lightning_automl_vision.run import RunFolder, finite, write
from lightning_automl_vision.storage import append, writing
from lightning_automl_vision.tiler_settings import TilingConfig
from lightning_automl_vision.training.continuing import FREE, differing, flat, flat_settings

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import DataSplits, FoldedData
    from lightning_automl_vision.tasks.base import Part
    from lightning_automl_vision.training.scoring import Scorer

_MINUTE = 60.0
_NEVER = "never"
# What two attempts at one fold may differ in.
_FREE = (*FREE, "job", "checkpoint", "runs")


def check_folds(settings: Settings) -> None:
    """Refuse what folds leave no room for."""
    number = settings.data.folds
    if not number:
        return
    if settings.data.validation:
        raise ConfigError(
            f"data.folds={number}: data.validation={settings.data.validation} is given too, and each fold is validated"
            " on its own part of data.training. Leave one of them out; to learn from both sets, put them into one."
        )
    for name, value in given(settings.overrides):
        if name in ("data.split", "data.validation_data_size"):
            raise ConfigError(
                f"{name}={value}: with data.folds={number} every image is held out once, in parts in which each class"
                " has its share. Leave it out."
            )
    if settings.task.lower_is_better:
        raise ConfigError(
            f"data.folds={number}: with task.validation_metric_type=none nothing is measured that could be told of"
            " all images together. Choose voc or coco, or leave data.folds out."
        )


def trained_in_folds(settings: Settings, folder: RunFolder) -> tuple[Result, DataSplits[Any]]:
    """One fold after the other, each a run in a folder of its own; those that are finished there are not repeated.

    Gives the data as `load_data` does, split for the first fold.
    """
    from lightning_automl_vision.data.labelled import load_folds

    if settings.resume == _NEVER:
        for left in folder.path.glob("fold_*"):
            shutil.rmtree(left)
    seed = int(settings.training.random_seed or 0)
    data = load_folds(settings.data, settings.task.name, seed=seed)
    LOG.info(
        "%d images in %d folds, %d classes; %s in %s",
        len(data.images),
        len(data.parts),
        len(data.images.classes),
        settings.model.name,
        folder.path,
    )
    return CrossValidation(settings=settings, folder=folder, data=data).run(), data.first()


@dataclass(kw_only=True)
class CrossValidation:
    """``results`` are those of the folds that have ended; the metrics those of all images judged so far."""

    settings: Settings
    folder: RunFolder
    data: FoldedData[Any]
    results: list[Result] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    metrics: Mapping[str, float] = field(default_factory=dict)
    _parts: list[Part] = field(default_factory=list)
    _scorer: Scorer | None = None

    def run(self) -> Result:
        from lightning_automl_vision.training.gathering import alone, told

        self._started, self._used = time.monotonic(), 0.0
        self._told = self._keep_lines()
        try:
            reason = self._trained()
        except Interrupted:
            told(None)  # in good order: the others wait for the next fold
            raise
        told(None)
        with alone():
            return self._concluded(reason)

    def _trained(self) -> str | None:
        """Why not all folds were trained, where they were not."""
        from lightning_automl_vision.training.gathering import alone

        for number in range(len(self.data.parts)):
            reason = _asked_to_stop() if number else None
            if reason is not None:
                return reason
            with self._named(number):
                result = self._fold(number)
                self.results.append(result)
                if result.status == PRUNED or result.primary_metric.epoch is None:
                    return result.reason
                with alone():
                    self._judge(number)
        return None

    @contextmanager
    def _named(self, number: int) -> Iterator[None]:
        """Whatever goes wrong says in which fold it did."""
        fold = f"fold {number + 1} of {len(self.data.parts)}"
        try:
            yield
        except Interrupted:
            raise Interrupted(
                f"Interrupted in {fold}: what was done is kept in {self.folder.path}; the same command goes on there."
            ) from None
        except VisionError as error:
            raise type(error)(f"{fold[:1].upper()}{fold[1:]}: {error}") from error

    def _path(self, number: int) -> Path:
        return self.folder.path / f"fold_{number}"

    def _fold(self, number: int) -> Result:
        from lightning_automl_vision.jobs.train import train_model
        from lightning_automl_vision.training.gathering import told

        path, asked = self._path(number), self._asked(number)
        _check_same(path, asked)
        result = _finished(path)
        if result is not None:
            self._used += result.seconds
            LOG.info("Fold %d of %d is done already", number + 1, len(self.data.parts))
            return result
        LOG.info("Fold %d of %d", number + 1, len(self.data.parts))
        told((number, str(path)))
        return train_model(asked, self.data.fold(number))

    def _asked(self, number: int) -> Settings:
        """What the fold is asked for: an equal share of the time that is left, and a folder of its own."""
        settings, path = self.settings, str(self._path(number))
        left = settings.limits.timeout_minutes * _MINUTE - self._seconds
        share = max(left, 1.0) / (len(self.data.parts) - number)
        return replace(
            settings,
            output_dir=path,
            data=replace(settings.data, test=None),
            limits=replace(settings.limits, timeout_minutes=share / _MINUTE),
            logger=_moved(settings.logger, settings.output_dir, path),
        )

    @property
    def _seconds(self) -> float:
        """What the run has used, earlier attempts at folds that are done included."""
        return self._used + time.monotonic() - self._started

    def _judge(self, number: int) -> None:
        """The fold's model on its own part; from then on its images count in the metrics."""
        from lightning_automl_vision.data.labelled import part_of

        part = self.data.parts[number]
        scorer = self._scorer_of(self._path(number))
        self.values.append(scorer.score(part_of(self.data.images, part))[self._primary])
        self._parts.append((part, scorer.task.left()))
        self.metrics = scorer.task.pool(self.data.images, self._parts)
        self._scorer = scorer
        self._tell(number)

    def _scorer_of(self, folder: Path) -> Scorer:
        from lightning_automl_vision.training.scoring import scorer_of

        settings = self.settings
        used = read_result(folder).validation_batch_size.get("used", settings.training.validation_batch_size)
        return scorer_of(
            folder,
            judged_by=settings.task,
            training=settings.training,
            accelerator=settings.trainer.accelerator,
            batch_size=int(used),
            tiler=settings.tiler if isinstance(settings.tiler, TilingConfig) else None,
            maximum_pixels=settings.data.maximum_image_pixels,
        )

    def _tell(self, number: int) -> None:
        """A line in metrics.jsonl for each fold, which an earlier attempt may have written."""
        line = {
            "epoch": number + 1,
            "seconds": round(self._seconds, 3),
            "images": sum(len(part) for part, _ in self._parts),
            f"fold_{self._primary}": self.values[-1],
            **self.metrics,
        }
        if number >= self._told:
            append(self.folder.metrics, json.dumps(finite(line), allow_nan=False) + "\n")
        self.folder.remember()
        LOG.info(
            "fold %d of %d: %s %.4f; of the %d images so far %.4f",
            number + 1,
            len(self.data.parts),
            self._primary,
            self.values[-1],
            line["images"],
            self.metrics[self._primary],
        )

    def _keep_lines(self) -> int:
        """Of an earlier attempt's metrics.jsonl only whole lines, of folds that are done; their number."""
        done = 0
        while done < len(self.data.parts) and _finished(self._path(done)) is not None:
            done += 1
        file = self.folder.metrics
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")][:done]
        if "".join(lines) != text:
            write(file, "".join(lines))
        self.folder.remember()
        return len(lines)

    @property
    def _primary(self) -> str:
        return self.settings.task.judged_by

    @property
    def _best(self) -> int | None:
        """The fold whose own validation came out best, the first of equals."""
        known = [number for number, value in enumerate(self.values) if value == value]
        return max(known, key=lambda number: self.values[number], default=0 if self.values else None)

    def _concluded(self, reason: str | None) -> Result:
        whole, best = len(self._parts) == len(self.data.parts), self._best
        pruned = not whole and reason is not None
        told = self._figures() if self.values else {}
        if whole:
            told["interval"] = self._report()
        if best is not None and (whole or pruned):
            _copy_model(self._path(best) / "model", self.folder.model)
        counts = whole or (pruned and bool(self._parts))
        metrics = finite(dict(self.metrics)) if counts else {}
        if not whole and not pruned:
            reason = (
                f"the time of fold {len(self.results)} of {len(self.data.parts)} was over before its first evaluation"
            )
        return Result(
            status=PRUNED if pruned else _status([result.status for result in self.results]),
            task=self.settings.task.name,
            model=self.settings.model.name,
            primary_metric=PrimaryMetric(
                name=self._primary, value=metrics.get(self._primary), epoch=len(self._parts) if counts else None
            ),
            metrics=metrics,
            test_metrics=finite(self._test()) if whole and self.data.test is not None else {},
            data=self._counts(),
            epochs=sum(result.epochs for result in self.results),
            seconds=self._used,
            device_memory=max((r.device_memory for r in self.results if r.device_memory is not None), default=None),
            random_seed=self.settings.training.random_seed,
            folder=str(self.folder.path),
            reason=reason,
            folds=finite(told),
        )

    def _figures(self) -> dict[str, Any]:
        """What each fold came to by itself."""
        return {
            "count": len(self.data.parts),
            "best": self._best,
            "values": list(self.values),
            "mean": statistics.fmean(self.values),
            "standard_deviation": statistics.stdev(self.values) if len(self.values) > 1 else None,
            "images": [len(part) for part, _ in self._parts],
            "statuses": [result.status for result in self.results],
            "epochs": [result.primary_metric.epoch for result in self.results],
        }

    def _report(self) -> list[float] | None:
        """Of all images, each judged by the model that has not seen it."""
        from lightning_automl_vision.training.report import interval_in, write_report
        from lightning_automl_vision.training.tiles import gains

        assert self._scorer is not None
        scorer, images, more = self._scorer, self.data.images, {}
        if scorer.tiling.cuts:
            more["tiling"] = gains(scorer.tiling, images, scorer.resizing, self.metrics)
        return interval_in(write_report(self.folder.path, scorer.task, images, more))

    def _test(self) -> dict[str, float]:
        assert self.data.test is not None
        assert self._best is not None
        return self._scorer_of(self._path(self._best)).score(self.data.test)

    def _counts(self) -> dict[str, Any]:
        data = self.data
        return {
            "training": len(data.images),
            "validation": sum(len(part) for part, _ in self._parts),
            "test": len(data.test) if data.test is not None else 0,
            "classes": len(data.images.classes),
            "dropped": dict(data.dropped),
        }


def rows_of(result: Result) -> list[tuple[str, str]]:
    """What the table at the end of a run says of its folds."""
    told = result.folds
    if not told:
        return []
    values = ", ".join("undefined" if value is None else f"{value:.4f}" for value in told["values"])
    spread, mean, interval = told["standard_deviation"], told["mean"], told.get("interval")
    rows = [("each fold", values)]
    if mean is not None and spread is not None:
        rows.append(("mean of the folds", f"{mean:.4f}, standard deviation {spread:.4f}"))
    if interval is not None and None not in interval:
        rows.insert(0, ("95 % interval", f"{interval[0]:.4f} to {interval[1]:.4f}"))
    if told["best"] is not None:
        rows.append(("model/", f"that of fold {told['best'] + 1}, the best"))
    return rows


def _status(statuses: list[str]) -> str:
    """What is to be said of all folds: of one that had too little time first."""
    return next(status for status in ("timeout", "stopped_early", "completed") if status in statuses)


def _finished(path: Path) -> Result | None:
    """What a fold came to, once it has come to something."""
    if not (path / RESULT).exists():
        return None
    result = read_result(path)
    return result if result.status in FINISHED else None


def _check_same(path: Path, settings: Settings) -> None:
    """Folds of two configurations, or of two data sets, would make a figure that means nothing."""
    file = path / "config.yaml"
    if not file.exists() or _finished(path) is None:
        return
    before, now = flat(yaml.safe_load(file.read_text(encoding="utf-8"))), flat_settings(settings)
    both = sorted(before.keys() & now.keys())
    name = next(differing({key: before[key] for key in both}, {key: now[key] for key in both}, _FREE), None)
    if name is not None:
        raise ConfigError(
            f"output_dir={path.parent}: {path.name} was trained with {name}={before[name]}, and this would go on"
            f" with {name}={now[name]}. Repeat that command, begin anew in its place with resume={_NEVER}, or name"
            " another folder."
        )


def _moved(value: Any, old: str, new: str) -> Any:
    """Trackers that write into the run's folder write into the fold's."""
    if isinstance(value, Mapping):
        return {name: _moved(item, old, new) for name, item in value.items()}
    return new if value == old else value


def _asked_to_stop() -> str | None:
    """Why a trial shall end, asked between two folds."""
    from lightning_automl_vision.training.stopping import Stopping

    file = Stopping.of_this_process().file
    return (file.read_text(encoding="utf-8").strip() or "asked to stop") if file is not None and file.exists() else None


def _copy_model(source: Path, target: Path) -> None:
    part = target.with_name(f".{os.getpid()}.{target.name}")
    with writing(target):
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
