"""Detection and instance segmentation: what is found is kept by image, in its own pixels, and judged at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic

import numpy as np

from lightning_automl_vision.data.batching import Truth, box_targets, mask_targets
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.errors import PluginError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.judging import Found, Judged, Verdicts
from lightning_automl_vision.models import B, Batch, BoxTargets, D, Detector, MaskTargets, VisionModel
from lightning_automl_vision.samples import ScoredBoxes, ScoredMasks
from lightning_automl_vision.search.per_image import PerImage, of_judged
from lightning_automl_vision.settings import TrainingConfig
from lightning_automl_vision.task_settings import VALIDATION_LOSS, ObjectTaskConfig
from lightning_automl_vision.tasks.base import Part, VisionTask
from lightning_automl_vision.tiling_plan import Tiling
from lightning_automl_vision.training.gathering import average, gathered, is_connected, is_first, told, total
from lightning_automl_vision.training.losses import LossMeter
from lightning_automl_vision.training.memory import evaluated

# What the metrics of each loader are called: those of the validation set by their plain names.
PREFIXES = ("", "training_")


class ObjectTask(VisionTask[B, D], Generic[B, D]):
    """``judged`` is the validation set with what was found in it last, or after a training in its best evaluation.

    ``tiling`` is how images are looked at; set it before ``judge`` is called.
    """

    with_masks = False

    def __init__(
        self, model: Detector[B, D], training: TrainingConfig, classes: Sequence[str], settings: ObjectTaskConfig
    ) -> None:
        super().__init__(model, training, classes, settings)
        if not isinstance(model, Detector):
            raise PluginError(f"{type(model).__name__} finds objects and is no Detector. Derive it from that class.")
        self.verdicts = Verdicts(
            classes=self.classes,
            metric_type=settings.validation_metric_type,
            iou_threshold=settings.validation_iou_threshold,
            box_score_threshold=model.box_score_threshold,
            score_floor=settings.metric_score_floor,
        )
        self._with_losses = settings.log_validation_loss or settings.lower_is_better
        self._validation_losses = LossMeter()
        self.tiling = Tiling()
        self._sets: list[Judged] = []
        self.judged: Judged | None = None
        self._kept: Judged | None = None

    def judge(self, *sets: LabelledImages[Any]) -> None:
        self._sets = [Judged.of(images, with_masks=self.with_masks, tiling=self.tiling) for images in sets]

    def show(self, pictures: int) -> None:
        """Keep so many images of the validation set to be drawn after each evaluation."""
        first = self._sets[0]
        counts = [len(target.labels) for target in first.truth]
        self._sets[0] = replace(first, showing=shown_indices(counts, pictures))

    def answer(self, model: VisionModel[B, D], batch: Batch[B]) -> list[D]:
        assert isinstance(model, Detector)
        with scores_above(model, self.verdicts.lowest_score):
            return model.predict(batch)

    def validation_step(self, batch: Batch[B], index: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, index, dataloader_idx)
        if self._with_losses and dataloader_idx == 0:
            pieces = evaluated(lambda piece: (self.evaluated.losses(piece), len(piece)), batch, self.sizes)
            for number, (losses, images) in enumerate(pieces, 1):
                self._validation_losses.add(losses, images / len(batch), ends=number == len(pieces))

    def collect(self, predictions: Sequence[D], batch: Batch[B], loader: int = 0) -> None:
        windows: Sequence[Window | None] = batch.windows or [None] * len(batch)
        for index, place, found, window in zip(batch.indices, batch.places, predictions, windows, strict=True):
            self._sets[loader].add(index, found, place, window)

    def compute(self) -> dict[str, float]:
        whole = [_together(judged) for judged in self._sets]
        metrics = told(self._metrics(whole) if is_first() else {})
        batches = self._validation_losses.steps
        losses = average(self._validation_losses.mean(), batches)
        if losses:
            metrics[VALIDATION_LOSS] = sum(losses.values())
            metrics |= {f"{VALIDATION_LOSS}_{name}": value for name, value in losses.items()}
        self.judged = whole[0]
        self._sets = [judged.emptied() for judged in self._sets]
        return metrics

    def _metrics(self, whole: Sequence[Judged]) -> dict[str, float]:
        return {
            f"{prefix}{name}": value
            for prefix, judged in zip(PREFIXES, whole, strict=False)
            for name, value in {**self.verdicts.metrics(judged), **self.verdicts.apart(judged)}.items()
        }

    def document(self) -> dict[str, Any]:
        return {} if self.judged is None else self.verdicts.document(self.judged)

    def answers(self) -> Iterator[dict[str, Any]]:
        yield from () if self.judged is None else self.verdicts.answers(self.judged)

    def per_image(self, images: LabelledImages[Any]) -> PerImage | None:
        return None if self.judged is None else of_judged(self.judged, self.verdicts)

    def left(self) -> Judged | None:
        return self.judged

    def pool(self, images: LabelledImages[Any], parts: Sequence[Part]) -> dict[str, float]:
        """Of what tiles and whole images say apart only what every part tells."""
        names = set.intersection(*({*judged.apart} for _, judged in parts))
        self.judged = replace(
            Judged.of(images, with_masks=self.with_masks, tiling=self.tiling),
            found=_by_image((indices, judged.found) for indices, judged in parts),
            apart={name: _by_image((indices, judged.apart[name]) for indices, judged in parts) for name in names},
        )
        return {**self.verdicts.metrics(self.judged), **self.verdicts.apart(self.judged)}

    def keep_evaluation(self) -> None:
        self._kept = self.judged

    def recall_evaluation(self) -> None:
        self.judged = self._kept
        self._sets = [judged.emptied() for judged in self._sets]
        self._validation_losses = LossMeter()

    def counted(self) -> dict[str, int]:
        dropped, self._dropped = self._dropped, 0
        return total({"objects_cut_away": dropped})


def _together(judged: Judged) -> Judged:
    """With what every process found, for the first one."""
    if not is_connected():
        return judged
    parts = {
        index: (answer, judged.shown.get(index), {name: found[index] for name, found in judged.apart.items()})
        for index, answer in judged.found.items()
    }
    whole = gathered(parts)
    return replace(
        judged,
        found={index: answer for index, (answer, _, _) in whole.items()},
        shown={index: shown for index, (_, shown, _) in whole.items() if shown is not None},
        apart={
            name: {index: apart[name] for index, (_, _, apart) in whole.items()}
            for name in {name: None for _, _, apart in whole.values() for name in apart}
        },
    )


def _by_image(parts: Iterable[tuple[Sequence[int], Found]]) -> Found:
    """What was found in parts of a set, by the images' places in the whole."""
    return {indices[index]: answer for indices, found in parts for index, answer in found.items()}


class DetectionTask(ObjectTask[BoxTargets, ScoredBoxes]):
    @property
    def truth(self) -> Truth:
        return box_targets


class SegmentationTask(ObjectTask[MaskTargets, ScoredMasks]):
    with_masks = True

    @property
    def truth(self) -> Truth:
        return mask_targets


@contextmanager
def scores_above(model: Detector[Any, Any], threshold: float) -> Iterator[None]:
    """While the metrics are computed, the model may answer with less sure objects than it does otherwise."""
    usual = model.box_score_threshold
    model.box_score_threshold = threshold
    try:
        yield
    finally:
        model.box_score_threshold = usual


def shown_indices(counts: Sequence[int], pictures: int) -> frozenset[int]:
    """So many images, spread over the set, of those that have objects if there are enough of them."""
    with_objects = np.flatnonzero(counts)
    chosen = with_objects if len(with_objects) >= pictures else np.arange(len(counts))
    places = np.linspace(0, len(chosen) - 1, min(pictures, len(chosen))).round().astype(int)
    return frozenset(chosen[places].tolist())
