"""Everything between checked data and a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import lightning as L
import torch

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.data.labelled import DataSplits, LabelledImages
from lightning_automl_vision.data.module import ImageLoader, make_loader
from lightning_automl_vision.data.prepared import Transform
from lightning_automl_vision.data.resizing import Resizing
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.models import VisionModel
from lightning_automl_vision.run import RunFolder, write_json, write_lines
from lightning_automl_vision.search.per_image import PER_IMAGE
from lightning_automl_vision.specs import TASKS, ModelSpec, without_published
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.tasks.objects import ObjectTask
from lightning_automl_vision.tiling_plan import Tiling
from lightning_automl_vision.training.class_weights import configure_loss
from lightning_automl_vision.training.continuing import NEVER
from lightning_automl_vision.training.devices import check_trainer, device_of
from lightning_automl_vision.training.fit import FitResult, fit
from lightning_automl_vision.training.freezing import freeze
from lightning_automl_vision.training.pictures import Pictures
from lightning_automl_vision.training.preparation import resizing_for, sized, training_transform
from lightning_automl_vision.training.resuming import find, fingerprint
from lightning_automl_vision.training.scoring import Scorer
from lightning_automl_vision.training.start_weights import start_from
from lightning_automl_vision.training.tiles import cut_of, gains, seen_through, tiling_for
from lightning_automl_vision.training.trackers import make_trackers


def checked_transform(settings: Settings) -> Transform:
    """The training transform, made and tried out before the data are read; refuses what only heavy imports can tell."""
    check_trainer(settings.trainer)
    return training_transform(settings.augment, settings.training)


@dataclass(frozen=True, kw_only=True)
class TrainingSession:
    settings: Settings
    spec: ModelSpec
    data: DataSplits[Any]
    seed: int
    task: VisionTask[Any, Any]
    transform: Transform
    resizing: Resizing
    tiling: Tiling

    @classmethod
    def prepare(
        cls, settings: Settings, spec: ModelSpec, data: DataSplits[Any], transform: Transform, seed: int
    ) -> TrainingSession:
        """Build everything, so that what cannot work fails before the first step."""
        training = settings.training
        L.seed_everything(seed, verbose=False)
        parameters = settings.model_parameters

        def build(classes: int) -> VisionModel[Any, Any]:
            size = training.validation_crop_size
            return spec.build_with(parameters, task=settings.task.name, num_classes=classes, image_size=size)

        model = build(len(data.classes))
        if settings.model.weights is not None:
            start_from(model, settings.model.weights, data.classes, build)
        resizing = resizing_for(model, settings.augment, training)
        tiling = tiling_for(settings, data.training, resizing)
        model.prepare(seen_through(tiling, settings.tiler, data.training), Path(settings.output_dir))
        freeze(model, training.layers_to_freeze, settings.model.name)
        labels = (sample.target.labels for sample in data.training.samples)
        configure_loss(model, training, labels, len(data.classes))
        task = resolve_name(TASKS[settings.task.name].builder)(model, training, data.classes, settings.task)
        if isinstance(task, ObjectTask):
            task.tiling = tiling
        return cls(
            settings=settings,
            spec=spec,
            data=data,
            seed=seed,
            task=task,
            transform=sized(transform, resizing, hsv_later=device_of(settings.trainer.accelerator) == "cuda"),
            resizing=resizing,
            tiling=tiling,
        )

    def fit(self, folder: RunFolder, callbacks: Sequence[L.Callback] = ()) -> FitResult:
        training = self.settings.training
        judged = [self.data.validation]
        if getattr(self.settings.task, "log_training_metrics", False):
            judged.append(self.data.training)
        self.task.judge(*judged)
        data = fingerprint(self.data.training, self.data.validation)
        resumed = find(folder.path, data) if self.settings.resume != NEVER else None
        loader = self._loader(
            self.data.training,
            self.transform,
            training.training_batch_size,
            shuffle=True,
            balanced=training.balanced_sampling,
            cut=cut_of(self.tiling, self.settings.tiler, self.data.training, training=True),
        )
        if resumed is not None:
            loader.begin_at(resumed.epochs, resumed.batches)
        return fit(
            self.task,
            loader,
            [self._scorer.loader(images) for images in judged],
            training=training,
            trainer=self.settings.trainer,
            limits=self.settings.limits,
            folder=folder.path,
            loggers=make_trackers(self.settings.logger),
            callbacks=[*self._pictures(folder), *callbacks],
            quiet=self.settings.quiet,
            data=data,
            resumed=resumed,
        )

    def _pictures(self, folder: RunFolder) -> list[L.Callback]:
        count = getattr(self.settings.task, "pictures", 0)
        if not count or not isinstance(self.task, ObjectTask):
            return []
        self.task.show(count)
        return [Pictures(folder.path / "pictures", maximum_pixels=self.settings.data.maximum_image_pixels)]

    def score(self, images: LabelledImages[Any]) -> dict[str, float]:
        """Every metric of the trained model on labelled images."""
        return self._scorer.score(images)

    def save(self, folder: RunFolder, metrics: Mapping[str, float]) -> None:
        """The model folder, and what explains the model on the validation set: the task still holds its scores."""
        training = self.settings.training
        parameters = without_published(self.settings.model_parameters)
        card = ModelCard(
            task=self.settings.task.name,
            name=self.spec.name,
            parameters=parameters,
            image_size=None if isinstance(self.task, ObjectTask) else training.validation_crop_size,
            labels=self.data.classes,
            settings={**self.resizing.as_settings(), **inference_settings(parameters), **self._tile_settings()},
        )
        explained = self.task.document()
        if self.tiling.cuts:
            explained["tiling"] = gains(self.tiling, self.data.training, self.resizing, metrics)
        write_json(folder.path / "evaluation.json", explained)
        write_lines(folder.path / "predictions.jsonl", self.task.answers())
        per_image = self.task.per_image(self.data.validation)
        if per_image is not None:
            per_image.save(folder.path / PER_IMAGE)
        save_model(folder.model, card, self.task.model)

    @property
    def _scorer(self) -> Scorer:
        return Scorer(
            task=self.task,
            resizing=self.resizing,
            tiling=self.tiling,
            tiler=self.settings.tiler,
            batch_size=self.settings.training.validation_batch_size,
            accelerator=self.settings.trainer.accelerator,
            workers=self.settings.training.number_of_workers,
            maximum_pixels=self.settings.data.maximum_image_pixels,
            seed=self.seed,
        )

    def _tile_settings(self) -> dict[str, Any]:
        return self.tiling.as_settings() if isinstance(self.task, ObjectTask) else {}

    def _loader(
        self, images: LabelledImages[Any], transform: Transform | Resizing, batch_size: int, **options: Any
    ) -> ImageLoader:
        return make_loader(
            images.samples,
            num_classes=len(self.data.classes),
            truth=self.task.truth,
            transform=transform,
            batch_size=batch_size,
            seed=self.seed,
            workers=self.settings.training.number_of_workers,
            maximum_pixels=self.settings.data.maximum_image_pixels,
            pin_memory=torch.cuda.is_available() and self.settings.trainer.accelerator != "cpu",
            **options,
        )
