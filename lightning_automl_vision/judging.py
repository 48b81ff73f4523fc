"""What was found in a labelled set, beside the truth, and every figure that follows from the two; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.masks import Mask, masks_of, polygon_mask
from lightning_automl_vision.merging import one_answer
from lightning_automl_vision.metrics.average_precision import TWELVE, CocoMetrics, VocMetrics, coco, voc
from lightning_automl_vision.metrics.object_curves import confusion_matrix, image_counts, object_curves
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects
from lightning_automl_vision.samples import Boxes, Masks, Place, ScoredBoxes, ScoredMasks
from lightning_automl_vision.tiling_plan import Tiling


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found in one image, in its pixels, best first; masks only where the task has them."""

    objects: ScoredBoxes
    masks: tuple[Mask, ...] | None = None

    def above(self, score: float) -> Answer:
        """Only objects with a score strictly above this."""
        keep = self.objects.scores > score
        if keep.all():
            return self
        masks = None if self.masks is None else tuple(mask for mask, good in zip(self.masks, keep, strict=True) if good)
        return Answer(objects=self.objects.chosen(keep), masks=masks)


Found = dict[int, Answer]
# What is found through tiles, and what the whole image alone shows, is told beside what both say together.
TILES, WHOLE = "tiles", "whole_images"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A labelled set, its truth in pixels, and by image what was found so far; an image seen twice counts once.

    Of the images in ``showing`` what was found is also kept as it is, to be drawn. An image that is looked at through
    windows is judged by what they say together, which is known when all have come; ``apart`` is what tiles alone, and
    the whole image alone, say.
    """

    images: LabelledImages[Boxes]
    truth: Sequence[Boxes]
    masks: Sequence[Sequence[Mask]] | None
    showing: frozenset[int] = frozenset()
    tiling: Tiling = field(default_factory=Tiling)
    found: Found = field(default_factory=dict)
    shown: dict[int, ScoredBoxes] = field(default_factory=dict)
    apart: dict[str, Found] = field(default_factory=dict)
    waiting: dict[int, dict[Window, ScoredBoxes]] = field(default_factory=dict)

    @classmethod
    def of(cls, images: LabelledImages[Any], *, with_masks: bool, tiling: Tiling | None = None) -> Judged:
        sizes = [(header.width, header.height) for header in images.headers]
        truth = [
            sample.target.placed(Place(0, 0, width, height))
            for sample, (width, height) in zip(images.samples, sizes, strict=True)
        ]
        masks = None if not with_masks else [_masks(target, *size) for target, size in zip(truth, sizes, strict=True)]
        return cls(images=images, truth=truth, masks=masks, tiling=tiling or Tiling())

    def add(self, index: int, found: ScoredBoxes, place: Place, window: Window | None = None) -> None:
        """An answer to a picture in which the image, or the window of it, has this place."""
        header = self.images.headers[index]
        size = header.width, header.height
        if window is None:
            self.keep(index, found.restored(place, *size))
            return
        parts = self.waiting.setdefault(index, {})
        parts[window] = found.seen_through(place, window, *size)
        if len(parts) == len(self.tiling.windows(*size)):
            self.add_windows(index, self.waiting.pop(index))

    def add_windows(self, index: int, parts: dict[Window, ScoredBoxes]) -> None:
        """What was found through all windows of an image, in its pixels."""
        header, merge = self.images.headers[index], self.tiling.merge
        picture = Window(0, 0, header.width, header.height)
        tiles = [part for window, part in parts.items() if window != picture]
        self.keep(index, one_answer(list(parts.values()), merge))
        self.apart.setdefault(WHOLE, {})[index] = _answer(parts[picture])
        self.apart.setdefault(TILES, {})[index] = _answer(one_answer(tiles, merge) if tiles else parts[picture])

    def keep(self, index: int, objects: ScoredBoxes) -> None:
        """The answer for the whole image, in its pixels."""
        if index in self.showing:
            self.shown[index] = objects
        self.found[index] = _answer(objects)

    def emptied(self) -> Judged:
        """The same set before anything was looked for in it."""
        return replace(self, found={}, shown={}, apart={}, waiting={})

    def with_found(self, found: Found) -> Judged:
        return replace(self, found=found)

    @property
    def indices(self) -> Sequence[int]:
        """The images that were looked at."""
        return sorted(self.found)

    def true_objects(self) -> TrueObjects:
        masks = None if self.masks is None else [self.masks[index] for index in self.indices]
        return TrueObjects.of([self.truth[index] for index in self.indices], masks)

    def found_objects(self, above: float) -> FoundObjects:
        answers = [self.found[index].above(above) for index in self.indices]
        masks = None if self.masks is None else [answer.masks or () for answer in answers]
        return FoundObjects.of([answer.objects for answer in answers], masks)


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Which figures are asked for.

    An object enters average precision with a score above ``score_floor``, or above ``box_score_threshold`` where no
    floor is given; precision, recall and the confusion matrix are always of those above ``box_score_threshold``.
    """

    classes: tuple[str, ...]
    metric_type: str
    iou_threshold: float
    box_score_threshold: float
    score_floor: float | None = None

    @property
    def lowest_score(self) -> float:
        return self.box_score_threshold if self.score_floor is None else self.score_floor

    @property
    def shown_score(self) -> float:
        return max(self.lowest_score, self.box_score_threshold)

    def metrics(self, judged: Judged) -> dict[str, float]:
        """By name; `mean_average_precision` is of `voc` where that is asked for, else COCO's at an overlap of 0.5."""
        values: dict[str, float] = {}
        truth, found = judged.true_objects(), judged.found_objects(self.lowest_score)
        if "coco" in self.metric_type:
            numbers = self._coco(truth, found)
            values |= {"mean_average_precision": numbers.ap_50, **{name: getattr(numbers, name) for name in TWELVE}}
        if "voc" in self.metric_type:
            shown = self._voc(truth, judged.found_objects(self.shown_score))
            average = shown if self.shown_score == self.lowest_score else self._voc(truth, found)
            values |= {
                "mean_average_precision": average.mean_average_precision,
                "precision": shown.precision,
                "recall": shown.recall,
            }
        return values

    def apart(self, judged: Judged) -> dict[str, float]:
        """The primary metric of what tiles alone, and whole images alone, say; nothing where nothing is cut."""
        return {
            f"{name}_mean_average_precision": values["mean_average_precision"]
            for name, found in judged.apart.items()
            if (values := replace(self, metric_type=self._primary_type).metrics(judged.with_found(found)))
        }

    @property
    def _primary_type(self) -> str:
        """What alone decides on the primary metric."""
        return next((kind for kind in ("voc", "coco") if kind in self.metric_type), self.metric_type)

    def document(self, judged: Judged) -> dict[str, Any]:
        """Rows of the confusion matrix are the true classes, columns the found ones; the last of each is background."""
        truth, found = judged.true_objects(), judged.found_objects(self.lowest_score)
        shown = judged.found_objects(self.shown_score)
        return {
            "classes": list(self.classes),
            "images": len(judged.indices),
            "objects": len(truth.labels),
            "overlap": "masks" if judged.masks is not None else "boxes",
            "iou_threshold": self.iou_threshold,
            "box_score_threshold": self.box_score_threshold,
            "average_precision_of_scores_above": self.lowest_score,
            "per_label_metrics": self._per_label(truth, found, shown),
            **({"coco": self._coco_document(truth, found)} if "coco" in self.metric_type else {}),
            "confusion_matrix": confusion_matrix(
                truth, shown, len(self.classes), iou_threshold=self.iou_threshold, score_threshold=self.shown_score
            ).tolist(),
            "curves": {
                self.classes[curve.label]: curve.as_dict()
                for curve in object_curves(truth, found, len(self.classes), iou_threshold=self.iou_threshold)
            },
        }

    def answers(self, judged: Judged) -> Iterator[dict[str, Any]]:
        """One object for each image: everything that was found, and how much of it is right."""
        counts = image_counts(
            judged.true_objects(), judged.found_objects(self.shown_score), iou_threshold=self.iou_threshold
        )
        for index, right, wrong, missed in zip(judged.indices, *counts, strict=True):
            answer = judged.found[index]
            objects = replace(answer.objects, classes=self.classes).as_dict()["boxes"]
            for item, mask in zip(objects, answer.masks or (), strict=False):
                item["mask"] = mask.as_coco()
            yield {
                "filename": judged.images.name(index),
                "boxes": objects,
                "true_positives": int(right),
                "false_positives": int(wrong),
                "missed": int(missed),
            }

    def _voc(self, truth: TrueObjects, found: FoundObjects) -> VocMetrics:
        return voc(truth, found, len(self.classes), iou_threshold=self.iou_threshold)

    def _coco(self, truth: TrueObjects, found: FoundObjects) -> CocoMetrics:
        return coco(truth, found, len(self.classes))

    def _per_label(self, truth: TrueObjects, found: FoundObjects, shown: FoundObjects) -> dict[str, Any]:
        averages, others = self._voc(truth, found).rows, self._voc(truth, shown).rows
        return {
            name: {
                "average_precision": average.average_precision,
                "precision": other.precision,
                "recall": other.recall,
                "objects": other.objects,
                "found": other.found,
            }
            for name, average, other in zip(self.classes, averages, others, strict=True)
        }

    def _coco_document(self, truth: TrueObjects, found: FoundObjects) -> dict[str, Any]:
        numbers = self._coco(truth, found)
        by_class = zip(self.classes, numbers.rows, strict=True)
        return {
            **{name: getattr(numbers, name) for name in TWELVE},
            "per_label_metrics": {name: row.as_dict() for name, row in by_class},
        }


def _answer(objects: ScoredBoxes) -> Answer:
    """Masks are drawn, and their shapes forgotten."""
    if isinstance(objects, ScoredMasks):
        return Answer(objects=objects.without_shapes(), masks=tuple(masks_of(objects)))
    return Answer(objects=objects)


def _masks(target: Masks, width: int, height: int) -> Sequence[Mask]:
    return [polygon_mask(parts, width, height) for parts in target.polygons]
