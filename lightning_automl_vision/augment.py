"""What albumentations does to a training image. The only module that knows it."""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lightning_automl_vision.data.prepared import Prepared, Seed
from lightning_automl_vision.data.resizing import CenterCrop, Letterbox, resized_to
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.geometry import bounds
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.pipelines import Step, read_pipeline
from lightning_automl_vision.samples import Boxes, IntArray, Labels, Masks, Pixels
from lightning_automl_vision.settings import AugmentConfig, ColorJitterConfig, CropConfig, TrainingConfig

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import below asks a server for newer versions

import albumentations
from albumentations.core.type_definitions import Targets

# A crop that keeps at least a quarter of the image is never magnified because of a reduced decode.
MOST_SPARE = 2.0
_OBJECTS = {Targets.BBOXES, Targets.KEYPOINTS}


@dataclass(frozen=True)
class Pipeline:
    """Transforms of albumentations; the same input and generator give the same result anywhere."""

    compose: albumentations.Compose
    source: str = "augment"

    def __call__(self, pixels: Pixels, generator: np.random.Generator) -> Pixels:
        return self.run(pixels, generator)[0]

    def run(self, pixels: Pixels, generator: np.random.Generator, **others: Any) -> tuple[Pixels, Mapping[str, Any]]:
        """The picture, and everything else that was given, under its name."""
        self.compose.set_random_state(generator, random.Random(int(generator.integers(1 << 62))))
        try:
            results: Mapping[str, Any] = self.compose(image=pixels, **others)
        except Exception as error:  # whatever a transform makes of a picture it cannot take
            height, width = pixels.shape[:2]
            raise ConfigError(
                f"{self.source} fails on a picture of {width} x {height} pixels: {_line(error)}"
            ) from None
        result = results["image"]
        if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape[2:] != (3,):
            raise ConfigError(
                f"{self.source} gives {_kind(result)} instead of H x W x 3 pixels of uint8."
                " Leave out what normalises or makes tensors, such as Normalize or ToTensorV2: the model does both."
            )
        return np.ascontiguousarray(result), results


@dataclass(frozen=True)
class ObjectPipeline:
    """A user's own transforms on a picture with boxes, or with polygons, whose corners are moved as points."""

    boxes: Pipeline
    masks: Pipeline

    def __call__(self, pixels: Pixels, target: Boxes, generator: np.random.Generator) -> tuple[Pixels, Boxes]:
        """The objects that are left; polygons, and boxes around them, may still reach beyond the new picture."""
        given = {"bboxes": target.boxes, "object": np.arange(len(target.labels))}
        if isinstance(target, Masks):
            return self._masks(pixels, target, generator, given)
        pixels, found = self.boxes.run(pixels, generator, **given)
        boxes = np.asarray(found["bboxes"], dtype=np.float64).reshape(-1, 4)
        left = replace(target.chosen(_indices(found["object"])), boxes=boxes)
        return pixels, left.chosen(np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1)))

    def _masks(
        self, pixels: Pixels, target: Masks, generator: np.random.Generator, given: Mapping[str, Any]
    ) -> tuple[Pixels, Masks]:
        outlines = [part for parts in target.polygons for part in parts]
        points = np.concatenate(outlines) if outlines else np.zeros((0, 2))
        pixels, found = self.masks.run(pixels, generator, **given, keypoints=points, corner=np.arange(len(points)))
        corners = _indices(found["corner"])
        if len(corners) != len(points):
            raise ConfigError(f"{self.masks.source} loses corners of polygons. Leave out what removes points.")
        moved = np.asarray(found["keypoints"], dtype=np.float64).reshape(-1, 2)[np.argsort(corners)]
        pieces = iter(np.split(moved, np.cumsum([len(part) for part in outlines])[:-1]))
        polygons = tuple(tuple(next(pieces) for _ in parts) for parts in target.polygons)
        boxes = [bounds(np.concatenate(parts)) for parts in polygons]
        masks = replace(target, boxes=np.array(boxes).reshape(-1, 4), polygons=polygons)
        return pixels, masks.chosen(np.sort(_indices(found["object"])))


def _indices(values: Any) -> IntArray:
    return np.asarray(values).astype(np.int64)


@dataclass(frozen=True)
class TrainingTransform:
    """A picture and a seed to a square picture of ``resizing.size``, or of the size that comes out without a resizing.

    ``short_side`` is what the picture may be reduced to while it is decoded; None asks for all of it.
    """

    pipeline: Pipeline | None
    resizing: CenterCrop | Letterbox | None
    short_side: int | None
    resize_first: bool = False

    @property
    def is_random(self) -> bool:
        return self.pipeline is not None

    def __call__(self, pixels: Pixels, target: Labels, seed: Seed) -> Prepared:
        if isinstance(target, Boxes):
            raise ConfigError(
                "This augmentation is for classification and moves no boxes. Choose augment=objects, none, letterbox"
                " or custom for a task with objects."
            )
        if self.resize_first and self.resizing is not None:
            pixels = self.resizing(pixels)
        if self.pipeline is not None:
            pixels = self.pipeline(pixels, np.random.default_rng(seed))
        if self.resizing is not None and pixels.shape[:2] != (self.resizing.size,) * 2:
            pixels = self.resizing(pixels)
        return Prepared(pixels=pixels, target=target)


class _RandomResizedCrop(albumentations.RandomResizedCrop):  # type: ignore[misc]
    """albumentations' crop, resized as pictures are in validation."""

    def apply(self, img: Pixels, crop_coords: tuple[int, int, int, int], **params: Any) -> Pixels:
        left, top, right, bottom = crop_coords
        height, width = self.size
        return resized_to(img[top:bottom, left:right], width, height)


class _RandomCrop(albumentations.RandomResizedCrop):  # type: ignore[misc]
    """The same crop, left at its size."""

    def apply(self, img: Pixels, crop_coords: tuple[int, int, int, int], **params: Any) -> Pixels:
        left, top, right, bottom = crop_coords
        return img[top:bottom, left:right]


def build_training_transform(augment: AugmentConfig, training: TrainingConfig) -> TrainingTransform:
    """The configured transform; ConfigError if it cannot be made."""
    size = training.training_crop_size
    if augment.file is not None:
        return _tried(
            TrainingTransform(pipeline=_custom(augment.file), resizing=_resizing(augment, size, 1.0), short_side=None)
        )
    cropped = augment.random_resized_crop.enabled
    resizing = _resizing(augment, size, training.validation_resize_size / training.validation_crop_size)
    return TrainingTransform(
        pipeline=_configured(augment, size, _RandomResizedCrop),
        resizing=resizing,
        short_side=_spared(augment.random_resized_crop, size) if cropped else resizing.short_side,
        resize_first=not cropped,
    )


def build_offline_transform(augment: AugmentConfig, training: TrainingConfig) -> TrainingTransform:
    """The same without any resizing: what is cut out stays as large as it is in the picture."""
    if augment.file is not None:
        return _tried(TrainingTransform(pipeline=_custom(augment.file), resizing=None, short_side=None))
    pipeline = _configured(augment, training.training_crop_size, _RandomCrop)
    return TrainingTransform(pipeline=pipeline, resizing=None, short_side=None)


def build_object_pipeline(file: str, minimum_visibility: float) -> ObjectPipeline:
    """A user's own transforms, tried out; ConfigError if they cannot be used on pictures with objects."""
    source, steps = _read(file)

    def pipeline(visibility: float, **parameters: Any) -> Pipeline:
        boxes = albumentations.BboxParams(
            format="pascal_voc",
            label_fields=["object"],
            clip=True,
            filter_invalid_bboxes=True,
            min_visibility=visibility,
        )
        transforms = [_built(step, with_objects=True) for step in steps]
        with warnings.catch_warnings():  # of transforms that move nothing: that is fine
            warnings.simplefilter("ignore", UserWarning)
            return Pipeline(albumentations.Compose(transforms, bbox_params=boxes, **parameters), source)

    corners = albumentations.KeypointParams(format="xy", label_fields=["corner"], remove_invisible=False)
    return ObjectPipeline(pipeline(minimum_visibility), pipeline(0.0, keypoint_params=corners))


def color_pipeline(jitter: ColorJitterConfig) -> Pipeline | None:
    transforms = _colors(jitter)
    return Pipeline(albumentations.Compose(transforms)) if transforms else None


def _configured(augment: AugmentConfig, size: int, crop: type[Any]) -> Pipeline | None:
    cropping = augment.random_resized_crop
    for name in ("scale", "ratio"):
        check_span(f"augment.random_resized_crop.{name}", getattr(cropping, name))
    crops = [crop(size=(size, size), scale=tuple(cropping.scale), ratio=tuple(cropping.ratio))]
    transforms = [*(crops if cropping.enabled else []), *_flips(augment), *_colors(augment.color_jitter)]
    return Pipeline(albumentations.Compose(transforms)) if transforms else None


def _resizing(augment: AugmentConfig, size: int, spare: float) -> CenterCrop | Letterbox:
    """The evaluation's resizing at the training size, so that both see objects at the same scale."""
    if augment.resize == Letterbox.name:
        return Letterbox(size=size, fill=augment.fill)
    return CenterCrop(resize=max(round(size * spare), size), size=size)


def _spared(crop: CropConfig, size: int) -> int:
    return math.ceil(size * min(MOST_SPARE, 1 / math.sqrt(crop.scale[0])))


def check_span(name: str, values: Sequence[float]) -> None:
    """Raise ConfigError for a key whose value is no pair from low to high."""
    if len(values) != 2 or values[0] > values[1]:
        raise ConfigError(f"{name}={list(values)}: must be two numbers, the smaller one first.")


def _flips(augment: AugmentConfig) -> list[Any]:
    transforms = [
        albumentations.HorizontalFlip(p=augment.horizontal_flip.p),
        albumentations.VerticalFlip(p=augment.vertical_flip.p),
    ]
    return [transform for transform in transforms if transform.p > 0]


def _colors(jitter: ColorJitterConfig) -> list[Any]:
    if not jitter.p:
        return []
    return [
        albumentations.ColorJitter(
            brightness=_around_one(jitter.brightness),
            contrast=_around_one(jitter.contrast),
            saturation=_around_one(jitter.saturation),
            hue=(-jitter.hue, jitter.hue),
            p=jitter.p,
        )
    ]


def _around_one(change: float) -> tuple[float, float]:
    return max(1 - change, 0.0), 1 + change


def _custom(file: str) -> Pipeline:
    source, steps = _read(file)
    return Pipeline(albumentations.Compose([_built(step) for step in steps]), source)


def _read(file: str) -> tuple[str, Sequence[Step]]:
    if not file:
        raise ConfigError("augment=custom needs a pipeline in YAML. Name it: augment.file=FILE.")
    return f"augment.file={file}", read_pipeline(file)


def _tried(transform: TrainingTransform) -> TrainingTransform:
    """Find what is wrong with a pipeline before training."""
    for seed in range(3):
        transform(trial_picture(), Labels(labels=np.array([0])), (seed,))
    return transform


def trial_picture() -> Pixels:
    """Larger than most."""
    return np.random.default_rng(0).integers(0, 256, (1024, 1280, 3), dtype=np.uint8)


def _built(step: Step, *, with_objects: bool = False) -> Any:
    kind = _transform_class(step)
    if with_objects and issubclass(kind, albumentations.DualTransform) and not {*_targets(kind)} >= _OBJECTS:
        raise ConfigError(f"{step.place}: {step.name} moves pixels but no boxes and polygons. Leave it out.")
    steps = [_built(child, with_objects=with_objects) for child in step.steps or ()]
    children = {} if step.steps is None else {"transforms": steps}
    return _called(lambda: kind(**children, **step.parameters), step)


def _targets(kind: type[Any]) -> Sequence[Targets]:
    """What it transforms; what it does not, albumentations hands on as it is."""
    targets: Targets | Sequence[Targets] = kind._targets
    return [targets] if isinstance(targets, Targets) else targets


def _transform_class(step: Step) -> type[Any]:
    found = getattr(albumentations, step.name, None)
    bases = (albumentations.BasicTransform, albumentations.BaseCompose)
    if isinstance(found, type) and issubclass(found, bases) and found not in bases:
        return found
    names = [
        name for name, value in vars(albumentations).items() if isinstance(value, type) and issubclass(value, bases)
    ]
    raise ConfigError(
        f"{step.place}: albumentations {albumentations.__version__} has no transform {step.name!r}."
        f"{nearest(step.name, names)}"
    )


def _called(build: Callable[[], Any], step: Step) -> Any:
    """albumentations only warns of parameters that it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return build()
        except Exception as error:  # pydantic's, Python's and albumentations' own
            raise ConfigError(f"{step.place}: {step.name} cannot be made: {_line(error)}") from None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text.removesuffix('.')}."


def _kind(result: object) -> str:
    dtype, shape = getattr(result, "dtype", None), getattr(result, "shape", None)
    return (
        f"{type(result).__name__} of {dtype} and shape {tuple(shape)}" if shape is not None else type(result).__name__
    )
