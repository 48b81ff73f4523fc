"""A model judged on labelled images: the one way of validation, test sets, folds and ``lav evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pkgutil import resolve_name
from typing import Any

import torch

from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.data.module import ImageLoader, make_loader
from lightning_automl_vision.data.resizing import Resizing
from lightning_automl_vision.data.sampling import order_by_shape
from lightning_automl_vision.data.shares import ALL, Share
from lightning_automl_vision.models import Batch
from lightning_automl_vision.predictor import open_model
from lightning_automl_vision.settings import DataConfig, TrainingConfig
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.task_settings import TaskConfig
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.tasks.objects import ObjectTask
from lightning_automl_vision.tiler_settings import TilerConfig, TilingConfig
from lightning_automl_vision.tiling_plan import Tiling
from lightning_automl_vision.training.devices import device_of
from lightning_automl_vision.training.tiles import cut_of

Batches = Iterable[Batch[Any]]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A task with its model, and how pictures are shown to it where nothing is random."""

    task: VisionTask[Any, Any]
    resizing: Resizing
    tiling: Tiling
    tiler: TilerConfig
    batch_size: int
    accelerator: str = "auto"
    workers: int | None = None
    maximum_pixels: int = DataConfig.maximum_image_pixels
    seed: int = 0
    share: Share = ALL
    lost: set[str] | None = None

    def loader(self, images: LabelledImages[Any]) -> ImageLoader:
        """Pictures that keep their shape come in the order of their shapes: so they need little padding."""
        sizes = [(header.width, header.height) for header in images.headers]
        return make_loader(
            images.samples,
            num_classes=len(self.task.classes),
            truth=self.task.truth,
            transform=self.resizing,
            batch_size=self.batch_size,
            seed=self.seed,
            order=order_by_shape(sizes) if isinstance(self.task, ObjectTask) and sizes else None,
            cut=cut_of(self.tiling, self.tiler, images, training=False),
            workers=self.workers,
            maximum_pixels=self.maximum_pixels,
            pin_memory=torch.cuda.is_available() and self.accelerator != "cpu",
            share=self.share,
            lost=self.lost,
        )

    def score(self, images: LabelledImages[Any], watched: Callable[[Batches], Batches] = iter) -> dict[str, float]:
        """Every metric of the model on labelled images; ``watched`` may look at the batches that come by."""
        device = torch.device(self.task.device)
        model = self.task.model.eval()
        self.task.judge(images)
        with torch.inference_mode():
            for batch in watched(self.loader(images)):
                self.task.collect(self.task.answered(model, batch.to(device)), batch)
        return self.task.compute()


def scorer_of(
    folder: str | PathLike[str],
    *,
    judged_by: TaskConfig,
    training: TrainingConfig,
    accelerator: str,
    batch_size: int,
    tiler: TilingConfig | None = None,
    maximum_pixels: int = DataConfig.maximum_image_pixels,
) -> Scorer:
    """The model of a folder as a training would judge it; of ``training`` no more than processes that read is used."""
    opened = open_model(folder)
    plain = replace(training, ema_decay=0.0, layers_to_freeze=0)
    task = resolve_name(TASKS[opened.card.task].builder)(opened.build(), plain, opened.card.labels, judged_by)
    if isinstance(task, ObjectTask):
        task.tiling = opened.tiling
    return Scorer(
        task=task.to(device_of(accelerator)),
        resizing=opened.resizing,
        tiling=opened.tiling,
        tiler=tiler or TilingConfig(),
        batch_size=batch_size,
        accelerator=accelerator,
        workers=training.number_of_workers,
        maximum_pixels=maximum_pixels,
    )


def with_bar(batches: Batches) -> Iterator[Batch[Any]]:
    """On a terminal, how far an evaluation is."""
    from tqdm import tqdm

    yield from tqdm(batches, unit="batch", disable=None, leave=False, dynamic_ncols=True)
