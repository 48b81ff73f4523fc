"""What happens to a training image and its objects.

A mosaic with other images or one window of the image, both turned and scaled; then blending, pasting, flips, colours,
occlusion, and the model's resizing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lightning_automl_vision.affine import Change, affine_matrix, drawn_change
from lightning_automl_vision.augment import (
    MOST_SPARE,
    ObjectPipeline,
    Pipeline,
    build_object_pipeline,
    check_span,
    color_pipeline,
    trial_picture,
)
from lightning_automl_vision.data.prepared import Labelled, Prepared, Seed
from lightning_automl_vision.data.resizing import Letterbox, Resizing
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.geometry import (
    Window,
    clipped,
    disjoint,
    flipped_horizontally,
    flipped_vertically,
    still_seen,
    visible_shares,
)
from lightning_automl_vision.hsv import Gains, drawn_gains, with_gains
from lightning_automl_vision.mosaic import (
    Scene,
    composed,
    drawn_centre,
    four_tiles,
    loaded_size,
    square_tile,
    whole_tile,
)
from lightning_automl_vision.object_window import drawn_window, shown, whole
from lightning_automl_vision.occlusion import erase, hiding_places
from lightning_automl_vision.pasting import blended, pasted, without_polygons
from lightning_automl_vision.samples import BoolArray, Boxes, FloatArray, Labels, Masks, Pixels, Place
from lightning_automl_vision.settings import ObjectAugmentConfig

_MOSAIC = 4
# What tells the draw of partners from that of everything else.
_COMPANY = 1


LabelledObjects = tuple[Pixels, Boxes]


@dataclass(frozen=True)
class ObjectTransform:
    """Without a resizing the pictures keep the size of what is shown, and are made of one image each.

    From ``first_plain_epoch`` on there are no mosaics; ``hsv_later`` leaves `augment.hsv` to the device.
    """

    augment: ObjectAugmentConfig
    resizing: Resizing | None
    colors: Pipeline | None
    own: ObjectPipeline | None
    first_plain_epoch: int | None = None
    hsv_later: bool = False

    @property
    def short_side(self) -> int | None:
        if self.resizing is None or self.own is not None:
            return None
        crop = self.augment.crop
        spare = min(MOST_SPARE, 1 / math.sqrt(crop.scale[0])) if crop.p > 0 else 1.0
        return math.ceil(self.resizing.short_side * spare)

    @property
    def is_random(self) -> bool:
        """Whether what becomes of one image alone is."""
        augment = self.augment
        parts = (
            augment.crop,
            augment.expand,
            augment.affine,
            augment.horizontal_flip,
            augment.vertical_flip,
            augment.copy_paste,
            augment.hsv,
            augment.occlusion,
        )
        return bool(self.own or self.colors or any(part.p for part in parts))

    def partners(self, images: int, seed: Seed) -> Sequence[int]:
        """Three images for a mosaic, one or another mosaic's four for a blend; any may come up more than once."""
        if self.own is not None or self.resizing is None:
            return ()
        generator = np.random.default_rng((*seed, _COMPANY))
        in_mosaic = generator.random() < self._mosaic_share(seed)
        blended = generator.random() < self.augment.mixup.p
        shown = (_MOSAIC if in_mosaic else 1) * (2 if blended else 1)
        return [int(index) for index in generator.integers(images, size=shown - 1)]

    def _mosaic_share(self, seed: Seed) -> float:
        epoch = seed[1] if len(seed) > 1 else 0
        plain = self.first_plain_epoch is not None and epoch >= self.first_plain_epoch
        return 0.0 if plain else self.augment.mosaic.p

    def __call__(self, pixels: Pixels, target: Labels, seed: Seed, others: Sequence[Labelled] = ()) -> Prepared:
        company = [(pixels, self._checked(target)), *((photo, self._checked(there)) for photo, there in others)]
        before = sum(len(there.labels) for _, there in company)
        generator = np.random.default_rng(seed)
        hidden: list[Window] = []
        gains: Gains | None = None
        if self.own is not None:
            height, width = pixels.shape[:2]
            pixels, objects = self.own(pixels, company[0][1].placed(Place(0, 0, width, height)), generator)
        else:
            scene = self._together(company, generator)
            more = self._pasted(scene, generator)
            before += len(more[1].labels) - len(scene[1].labels)
            pixels, objects = self._flipped(more, generator)
            pixels = self.colors(pixels, generator) if self.colors else pixels
            pixels, gains = self._with_gains(pixels, generator)
            pixels, hidden = self._occluded(pixels, objects, generator)
        prepared = self._sized(pixels, objects, hidden, before)
        return replace(prepared, gains=gains)

    def _checked(self, target: Labels) -> Boxes:
        if not isinstance(target, Boxes):
            raise ConfigError(
                "This augmentation is for pictures with objects. Choose augment=classification, none, letterbox or"
                " custom for a task without."
            )
        if self.augment.copy_paste.p and self.own is None and not isinstance(target, Masks):
            raise without_polygons(self.augment.copy_paste.p)
        return target

    def _together(self, company: Sequence[LabelledObjects], generator: np.random.Generator) -> Scene:
        """One scene, or the first and the second half of the company blended."""
        half = len(company) // 2
        if len(company) not in (2, 2 * _MOSAIC):
            return self._scene(company, generator)
        first, second = (self._scene(part, generator) for part in (company[:half], company[half:]))
        return blended(first, second, self.augment.fill, generator)

    def _scene(self, photos: Sequence[LabelledObjects], generator: np.random.Generator) -> Scene:
        if len(photos) == _MOSAIC:
            return self._mosaic(photos, generator)
        (pixels, target), affine = photos[0], self.augment.affine
        height, width = pixels.shape[:2]
        objects = target.placed(Place(0, 0, width, height))
        window = drawn_window(self.augment, objects, width, height, generator)
        if window != (0, 0, width, height):
            pixels, objects = shown(pixels, objects, window, self.resizing, self.augment.fill)
        if not _happens(affine.p, generator):
            return pixels, objects
        picture = whole(pixels)
        left = clipped(objects.chosen(self._seen(visible_shares(objects, picture))), picture)
        photo = pixels, left.shares(Place(0, 0, picture.width, picture.height))
        width, height = int(picture.width), int(picture.height)
        side = None if self.resizing is None else self.resizing.short_side
        output = (width, height) if side is None else (side, side)
        tile = whole_tile(width, height) if side is None else square_tile(width, height, side)
        change = drawn_change(affine, generator)
        matrix = affine_matrix(change, output, output)
        return composed([photo], [tile], matrix, output, scale=change.scale, fill=self.augment.fill)

    def _mosaic(self, photos: Sequence[LabelledObjects], generator: np.random.Generator) -> Scene:
        assert self.resizing is not None
        side, affine = self.resizing.short_side, self.augment.affine
        centre = drawn_centre(side, generator)
        placed = [photos[index] for index in generator.permutation(_MOSAIC)]
        sizes = [loaded_size(pixels.shape[1], pixels.shape[0], side) for pixels, _ in placed]
        change = drawn_change(affine, generator) if _happens(affine.p, generator) else Change()
        matrix = affine_matrix(change, (2 * side, 2 * side), (side, side))
        tiles = four_tiles(sizes, centre, side)
        return composed(placed, tiles, matrix, (side, side), scale=change.scale, fill=self.augment.fill)

    def _pasted(self, scene: Scene, generator: np.random.Generator) -> Scene:
        share, (pixels, objects) = self.augment.copy_paste.p, scene
        return pasted(pixels, objects, share, generator) if share and isinstance(objects, Masks) else scene

    def _flipped(self, scene: Scene, generator: np.random.Generator) -> Scene:
        pixels, objects = scene
        if generator.random() < self.augment.horizontal_flip.p:
            pixels, objects = cv2.flip(pixels, 1), flipped_horizontally(objects, pixels.shape[1])  # type: ignore[assignment]
        if generator.random() < self.augment.vertical_flip.p:
            pixels, objects = cv2.flip(pixels, 0), flipped_vertically(objects, pixels.shape[0])  # type: ignore[assignment]
        return pixels, objects

    def _with_gains(self, pixels: Pixels, generator: np.random.Generator) -> tuple[Pixels, Gains | None]:
        if not _happens(self.augment.hsv.p, generator):
            return pixels, None
        gains = drawn_gains(self.augment.hsv, generator)
        return (pixels, gains) if self.hsv_later else (with_gains(pixels, gains), None)

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
        return still_seen(shares, self.augment.minimum_visibility)


def build_object_transform(
    augment: ObjectAugmentConfig, resizing: Resizing | None, *, epochs: int | None = None
) -> ObjectTransform:
    """The configured transform, tried out where it is the user's own; ConfigError if it cannot be made.

    ``epochs`` is how many the training has, for it to end with those without mosaics.
    """
    for name, values in (
        ("crop.scale", augment.crop.scale),
        ("crop.ratio", augment.crop.ratio),
        ("occlusion.share", augment.occlusion.share),
    ):
        check_span(f"augment.{name}", values)
    augment = _obeying_flags(augment)
    if augment.file is None:
        plain = augment.mosaic.plain_epochs
        first_plain = max(epochs - plain, 0) if epochs is not None and plain else None
        return ObjectTransform(augment, resizing, color_pipeline(augment.color_jitter), None, first_plain)
    transform = ObjectTransform(
        augment, resizing, None, build_object_pipeline(augment.file, augment.minimum_visibility)
    )
    for seed in range(3):
        for target in _trial_targets():
            transform(trial_picture(), target, (seed,))
    return transform


def _obeying_flags(augment: ObjectAugmentConfig) -> ObjectAugmentConfig:
    """What the documented flags leave out never happens."""
    documented = ["crop", "expand", "affine", "horizontal_flip", "vertical_flip", "hsv", "mixup", "copy_paste"]
    out = [] if augment.apply_automl_train_augmentations else documented
    out += [] if augment.apply_mosaic_for_yolo else ["mosaic"]
    return replace(augment, **{name: replace(getattr(augment, name), p=0.0) for name in out})


def object_resizing(augment: ObjectAugmentConfig, model_resizing: Resizing) -> Resizing:
    """The model's own, unless the configuration asks for a letterbox."""
    if augment.resize == Letterbox.name:
        return Letterbox(size=augment.letterbox_size, fill=augment.fill)
    return model_resizing


def _happens(share: float, generator: np.random.Generator) -> bool:
    """What never happens takes no number from the generator, so that it changes nothing else."""
    return share > 0 and generator.random() < share


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
