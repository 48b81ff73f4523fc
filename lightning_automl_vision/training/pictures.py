"""The same few validation images after each evaluation, truth and prediction side by side: ``pictures/`` of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import lightning as L

from lightning_automl_vision.data.images import read_image
from lightning_automl_vision.drawing.files import write_picture
from lightning_automl_vision.drawing.grid import grid, truth_and_prediction
from lightning_automl_vision.judging import Judged
from lightning_automl_vision.samples import Pixels
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.storage import replacing
from lightning_automl_vision.tasks.objects import ObjectTask

SHORT_SIDE = 320


@dataclass
class Pictures(L.Callback):
    """Images are those the task was told to show; what was found is what enters precision and recall."""

    folder: Path
    maximum_pixels: int = DataConfig.maximum_image_pixels
    _pixels: dict[int, Pixels] = field(default_factory=dict)

    def on_validation_end(self, trainer: L.Trainer, task: ObjectTask[Any, Any]) -> None:  # type: ignore[override]
        judged = task.judged
        if judged is None or not judged.shown:
            return
        rows = [self._row(task, judged, index) for index in sorted(judged.shown)]
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / f"epoch_{trainer.current_epoch + 1:04}.jpg") as part:
            write_picture(part, grid(rows))

    def _row(self, task: ObjectTask[Any, Any], judged: Judged, index: int) -> Pixels:
        found = judged.shown[index]
        sure = replace(found.chosen(found.scores > task.verdicts.shown_score), classes=task.classes)
        return truth_and_prediction(self._image(judged, index), judged.truth[index], sure, task.classes)

    def _image(self, judged: Judged, index: int) -> Pixels:
        """Read once, and small."""
        if index not in self._pixels:
            pixels = read_image(
                judged.images.samples[index].image, maximum_pixels=self.maximum_pixels, short_side=SHORT_SIDE
            )
            scale = min(SHORT_SIDE / min(pixels.shape[:2]), 1.0)
            size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
            self._pixels[index] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return self._pixels[index]
