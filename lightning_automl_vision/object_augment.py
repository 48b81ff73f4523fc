"""What happens to a training image and its objects: one window of the picture, flips, colours, occlusion, resizing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from lightning_automl_vision.augment import (
    MOST_SPARE,
    ObjectPipeline,
    Pipeline,
    build_object_pipeline,
    check_span,
    color_pipeline,
    trial_picture,
)
from lightning_automl_vision.data.prepared import Prepared, Seed
from lightning_automl_vision.data.resizing import Letterbox, Resizing
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.geometry import (
    Window,
    clipped,
    disjoint,
    flipped_horizontally,
    flipped_vertically,
    visible_shares,
)
from lightning_automl_vision.object_window import Moved, drawn_window, shown, whole
from lightning_automl_vision.occlusion import erase, hiding_places
from lightning_automl_vision.samples import BoolArray, Boxes, FloatArray, Labels, Masks, Pixels, Place
from lightning_automl_vision.settings import ObjectAugmentConfig

# Of an object that is there at all, at least this share is to be seen, whatever is asked for.
_LEAST = 1e-4
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ObjectTransform:
    """Without a resizing the pictures keep the size of what is shown."""

    augment: ObjectAugmentConfig
    resizing: Resizing | None
    colors: Pipeline | None
    own: ObjectPipeline | None

    @property
    def short_side(self) -> int | None:
        if self.resizing is None or self.own is not None:
            return None
        crops = self.augment.apply_automl_train_augmentations and self.augment.crop.p > 0
        spare = min(MOST_SPARE, 1 / math.sqrt(self.augment.crop.scale[0])) if crops else 1.0
        return math.ceil(self.resizing.short_side * spare)

    @property
    def is_random(self) -> bool:
        augment = self.augment
        shares = augment.crop.p, augment.expand.p, augment.horizontal_flip.p, augment.vertical_flip.p
        documented = augment.apply_automl_train_augmentations and any(shares)
        return bool(self.own or self.colors or documented or augment.occlusion.p)

    def __call__(self, pixels: Pixels, target: Labels, seed: Seed) -> Prepared:
        if not isinstance(target, Boxes):
            raise ConfigError(
                "This augmentation is for pictures with objects. Choose augment=classification, none, letterbox or"
                " custom for a task without."
            )
        generator = np.random.default_rng(seed)
        height, width = pixels.shape[:2]
        objects = target.placed(Place(0, 0, width, height))
        hidden: list[Window] = []
        if self.own is not None:
            pixels, objects = self.own(pixels, objects, generator)
        else:
            pixels, objects = self._moved(pixels, objects, generator)
            pixels = self.colors(pixels, generator) if self.colors else pixels
            pixels, hidden = self._occluded(pixels, objects, generator)
        return self._sized(pixels, objects, hidden, len(target.labels))

    def _moved(self, pixels: Pixels, objects: Boxes, generator: np.random.Generator) -> Moved:
        augment = self.augment
        if not augment.apply_automl_train_augmentations:
            return pixels, objects
        height, width = pixels.shape[:2]
        window = drawn_window(augment, objects, width, height, generator)
        if window != (0, 0, width, height):
            pixels, objects = shown(pixels, objects, window, self.resizing, augment.fill)
        if generator.random() < augment.horizontal_flip.p:
            pixels, objects = cv2.flip(pixels, 1), flipped_horizontally(objects, pixels.shape[1])  # type: ignore[assignment]
        if generator.random() < augment.vertical_flip.p:
            pixels, objects = cv2.flip(pixels, 0), flipped_vertically(objects, pixels.shape[0])  # type: ignore[assignment]
        return pixels, objects

    def _occluded(self, pixels: Pixels, objects: Boxes, generator: np.random.Generator) -> tuple[Pixels, list[Window]]:
        occlusion = self.augment.occlusion
        if generator.random() >= occlusion.p:
            return pixels, []
        picture = whole(pixels)
        visible = objects.boxes.clip(picture[:2] * 2, picture[2:] * 2)[self._seen(visible_shares(objects, picture))]
        places = hiding_places(visible, occlusion, generator)
        return erase(pixels, places, occlusion.fill, self.augment.fill, generator), places

    def _sized(self, pixels: Pixels, objects: Boxes, hidden: list[Window], before: int) -> Prepared:
        """Brought to size, without what is no longer to be seen."""
        width, height = pixels.shape[1], pixels.shape[0]
        place = Place(0, 0, width, height)
        if self.resizing is not None:
            place, pixels = self.resizing.place(width, height), self.resizing(pixels)
        step = Place(place.left, place.top, place.width / width, place.height / height)
        objects = objects.placed(step)
        picture = Window(*place[:2], place.left + place.width, place.top + place.height).overlap(whole(pixels))
        assert picture is not None
        shares = visible_shares(objects, picture)
        for piece in disjoint([_placed(window, step) for window in hidden]):
            if (behind := piece.overlap(picture)) is not None:
                shares -= visible_shares(objects, behind)
        kept = objects.chosen(self._seen(shares))
        return Prepared(
            pixels=np.ascontiguousarray(pixels),
            target=clipped(kept, picture),
            dropped=before - len(kept.labels),
        )

    def _seen(self, shares: FloatArray) -> BoolArray:
        return np.asarray(shares >= max(self.augment.minimum_visibility - _ROUNDING, _LEAST))


def build_object_transform(augment: ObjectAugmentConfig, resizing: Resizing | None) -> ObjectTransform:
    """The configured transform, tried out where it is the user's own; ConfigError if it cannot be made."""
    for name, values in (
        ("crop.scale", augment.crop.scale),
        ("crop.ratio", augment.crop.ratio),
        ("occlusion.share", augment.occlusion.share),
    ):
        check_span(f"augment.{name}", values)
    if augment.file is None:
        return ObjectTransform(augment, resizing, color_pipeline(augment.color_jitter), None)
    transform = ObjectTransform(
        augment, resizing, None, build_object_pipeline(augment.file, augment.minimum_visibility)
    )
    for seed in range(3):
        for target in _trial_targets():
            transform(trial_picture(), target, (seed,))
    return transform


def object_resizing(augment: ObjectAugmentConfig, model_resizing: Resizing) -> Resizing:
    """The model's own, unless the configuration asks for a letterbox."""
    if augment.resize == Letterbox.name:
        return Letterbox(size=augment.letterbox_size, fill=augment.fill)
    return model_resizing


def _placed(window: Window, place: Place) -> Window:
    return Window(*place.points(np.array(window)).tolist())


def _trial_targets() -> list[Boxes]:
    """Objects and none, as boxes and as polygons."""
    boxes = np.array([[0.1, 0.1, 0.6, 0.5], [0.4, 0.5, 0.9, 0.9]])
    some = Boxes(labels=np.array([0, 1]), boxes=boxes, crowd=np.zeros(2, dtype=np.bool_))
    outlines = tuple((box[[[0, 1], [2, 1], [2, 3], [0, 3]]],) for box in boxes)
    masks = Masks(labels=some.labels, boxes=boxes, crowd=some.crowd, polygons=outlines)
    none = np.array([], dtype=np.int64)
    return [some, masks, some.chosen(none), masks.chosen(none)]
