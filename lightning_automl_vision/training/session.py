"""Everything between checked data and a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import lightning as L
import torch

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.data.labelled import DataSplits, LabelledImages
from lightning_automl_vision.data.manifest import fingerprint
from lightning_automl_vision.data.module import ImageLoader, make_loader
from lightning_automl_vision.data.packed import labels_of
from lightning_automl_vision.data.prepared import Transform
from lightning_automl_vision.data.resizing import Resizing
from lightning_automl_vision.data.urls import local_path
from lightning_automl_vision.errors import ConfigError, TrainingError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.models import VisionModel
from lightning_automl_vision.run import RunFolder, write_json, write_lines
from lightning_automl_vision.search.per_image import PER_IMAGE
from lightning_automl_vision.search.same_data import check_same_data, is_trial
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.specs import TASKS, ModelSpec, without_published
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.tasks.objects import ObjectTask
from lightning_automl_vision.tiling_plan import Tiling
from lightning_automl_vision.training.carried_over import CarriedOver, carry_over
from lightning_automl_vision.training.class_weights import configure_loss
from lightning_automl_vision.training.continuing import NEVER
from lightning_automl_vision.training.devices import check_trainer, device_of
from lightning_automl_vision.training.earlier_model import earlier_model
from lightning_automl_vision.training.fit import FitResult, batches_of_a_step, fit
from lightning_automl_vision.training.freezing import freeze
from lightning_automl_vision.training.gathering import each, is_connected, is_first, share
from lightning_automl_vision.training.pictures import Pictures
from lightning_automl_vision.training.preparation import resizing_for, sized, training_transform
from lightning_automl_vision.training.probing import AUTO, fitting_batch_size
from lightning_automl_vision.training.resuming import Resumed, find
from lightning_automl_vision.training.scoring import Scorer
from lightning_automl_vision.training.start_weights import start_from
from lightning_automl_vision.training.strategy import for_processes
from lightning_automl_vision.training.tiles import cut_of, gains, seen_through, tiling_for
from lightning_automl_vision.training.trackers import make_trackers


def checked_transform(settings: Settings) -> Transform:
    """The training transform, made and tried out before the data are read; refuses what only heavy imports can tell."""
    check_trainer(settings.trainer)
    processes = settings.trainer.devices * settings.trainer.num_nodes
    if settings.training.training_batch_size == AUTO and processes > 1:
        raise ConfigError(
            f"training.training_batch_size={AUTO}: {processes} devices would each find a size of their own. Give a"
            " number, such as the one that is found with trainer.devices=1."
        )
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
    carried: CarriedOver | None = None
    lost: set[str] = field(default_factory=set)

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
        earlier = earlier_model(settings)
        carried = None if earlier is None else carry_over(model, earlier, data.classes, build)
        resizing = resizing_for(model, settings.augment, training)
        tiling = tiling_for(settings, data.training, resizing)
        model.prepare(seen_through(tiling, settings.tiler, data.training), Path(settings.output_dir))
        freeze(model, training.layers_to_freeze, settings.model.name)
        configure_loss(model, training, labels_of(data.training.samples), len(data.classes))
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
            carried=carried,
        )

    def fit(self, folder: RunFolder, callbacks: Sequence[L.Callback] = ()) -> FitResult:
        judged = [self.data.validation]
        if getattr(self.settings.task, "log_training_metrics", False):
            judged.append(self.data.training)
        self.task.judge(*judged)
        data = fingerprint(self.data.training, self.data.validation)
        if len({*each(data)}) > 1:
            raise TrainingError("The processes of this training find different images or labels: give all the same.")
        if is_first() and is_trial() and self._are_known:
            check_same_data(self.settings, folder.path, data)
        resumed = find(folder.path, data) if self.settings.resume != NEVER else None
        self.task.config = training = for_processes(self._with_batch_sizes(resumed), self.settings.trainer)
        self._tell_of_processes(training)
        loader = self._training_loader(int(training.training_batch_size), self.settings.training.number_of_workers)
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
            loggers=make_trackers(self.settings.logger) if is_first() else (),
            callbacks=[*self._pictures(folder), *callbacks],
            quiet=self.settings.quiet,
            data=data,
            resumed=resumed,
        )

    def _tell_of_processes(self, training: TrainingConfig) -> None:
        processes, trainer, size = share().size, self.settings.trainer, int(training.training_batch_size)
        if not is_connected() or not is_first():
            return
        machines = f" on {trainer.num_nodes} machines" if trainer.num_nodes > 1 else ""
        scaled = f"; trainer.scale_learning_rate makes the learning rate {training.learning_rate:g}"
        LOG.info(
            "%d processes%s train together: batches of %d each, an effective batch of %d%s.",
            processes,
            machines,
            size,
            processes * size * batches_of_a_step(training),
            scaled if trainer.scale_learning_rate else "",
        )

    @property
    def _are_known(self) -> bool:
        """Whether the images are those of the data, less none that could not be reached for the moment."""
        sets = (self.data.training, self.data.validation)
        return not self.settings.data.ignore_data_errors or all(
            local_path(sample.image) is not None for images in sets for sample in images.samples
        )

    @property
    def batch_size(self) -> dict[str, int | str]:
        """How many images a training step was asked to have, and how many of them were computed at once."""
        size = int(self.task.config.training_batch_size)
        return {
            "requested": self.settings.training.training_batch_size,
            "used": self.task.sizes.of_training(size),
        }

    @property
    def validation_batch_size(self) -> dict[str, int | str]:
        """The same of evaluations."""
        size = int(self.task.config.validation_batch_size)
        return {
            "requested": self.settings.training.validation_batch_size,
            "used": self.task.sizes.of_validation(size),
        }

    def _with_batch_sizes(self, resumed: Resumed | None) -> TrainingConfig:
        """In numbers where `auto` was asked for: those of an earlier attempt, or what is found by trying."""
        training = self.settings.training
        size, evaluated = training.training_batch_size, training.validation_batch_size
        if size == AUTO:
            size = (
                fitting_batch_size(
                    self.task,
                    lambda images: next(iter(self._training_loader(images, workers=0))),
                    images=len(self.data.training),
                    training=training,
                    trainer=self.settings.trainer,
                )
                if resumed is None
                else resumed.task["batch_size"]
            )
            size = min(each(size))
        return replace(
            training, training_batch_size=size, validation_batch_size=size if evaluated == AUTO else evaluated
        )

    def _training_loader(self, batch_size: int, workers: int | None) -> ImageLoader:
        return self._loader(
            self.data.training,
            self.transform,
            batch_size,
            workers=workers,
            shuffle=True,
            balanced=self.settings.training.balanced_sampling,
            cut=cut_of(self.tiling, self.settings.tiler, self.data.training, training=True),
        )

    def _pictures(self, folder: RunFolder) -> list[L.Callback]:
        count = getattr(self.settings.task, "pictures", 0)
        if not count or not isinstance(self.task, ObjectTask):
            return []
        self.task.show(count)
        if not is_first():
            return []
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
            batch_size=int(self.task.config.validation_batch_size),
            accelerator=self.settings.trainer.accelerator,
            workers=self.settings.training.number_of_workers,
            maximum_pixels=self.settings.data.maximum_image_pixels,
            seed=self.seed,
            share=share(),
            lost=self._lost,
        )

    @property
    def _lost(self) -> set[str] | None:
        """None where a picture that cannot be read ends the run."""
        return self.lost if self.settings.data.ignore_data_errors else None

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
            maximum_pixels=self.settings.data.maximum_image_pixels,
            pin_memory=torch.cuda.is_available() and self.settings.trainer.accelerator != "cpu",
            **{"share": share(), **options},
            lost=self._lost,
        )
