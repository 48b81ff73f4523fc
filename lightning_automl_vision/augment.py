"""What happens to a training image. The only module that knows albumentations."""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_automl_vision.data.resizing import CenterCrop, Letterbox, Resizing, resized_to
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.pipelines import Step, read_pipeline
from lightning_automl_vision.samples import Pixels
from lightning_automl_vision.settings import AugmentConfig, CropConfig, TrainingConfig

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import below asks a server for newer versions

import albumentations

# A crop that keeps at least a quarter of the image is never magnified because of a reduced decode.
_MOST_SPARE = 2.0

Seed = Sequence[int]


@dataclass(frozen=True)
class TrainingTransform:
    """A picture and a seed to a square picture of ``resizing.size``; the same two give the same result anywhere.

    ``short_side`` is what the picture may be reduced to while it is decoded; None asks for all of it.
    """

    compose: albumentations.Compose | None
    resizing: Resizing
    short_side: int | None
    source: str = "augment"
    resize_first: bool = False

    def __call__(self, pixels: Pixels, seed: Seed) -> Pixels:
        if self.resize_first:
            pixels = self.resizing(pixels)
        if self.compose is not None:
            pixels = self._augmented(pixels, seed)
        size = self.resizing.size
        return pixels if pixels.shape[:2] == (size, size) else self.resizing(pixels)

    def _augmented(self, pixels: Pixels, seed: Seed) -> Pixels:
        assert self.compose is not None
        generator = np.random.default_rng(seed)
        self.compose.set_random_state(generator, random.Random(int(generator.integers(1 << 62))))
        try:
            result: Pixels = self.compose(image=pixels)["image"]
        except Exception as error:  # whatever a transform makes of a picture it cannot take
            height, width = pixels.shape[:2]
            raise ConfigError(
                f"{self.source} fails on a picture of {width} x {height} pixels: {_line(error)}"
            ) from None
        if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape[2:] != (3,):
            raise ConfigError(
                f"{self.source} gives {_kind(result)} instead of H x W x 3 pixels of uint8."
                " Leave out what normalises or makes tensors, such as Normalize or ToTensorV2: the model does both."
            )
        return np.ascontiguousarray(result)


class _RandomResizedCrop(albumentations.RandomResizedCrop):  # type: ignore[misc]
    """albumentations' crop, resized as pictures are in validation."""

    def apply(self, img: Pixels, crop_coords: tuple[int, int, int, int], **params: Any) -> Pixels:
        left, top, right, bottom = crop_coords
        height, width = self.size
        return resized_to(img[top:bottom, left:right], width, height)


def build_training_transform(augment: AugmentConfig, training: TrainingConfig) -> TrainingTransform:
    """The configured transform; ConfigError if it cannot be made."""
    size = training.training_crop_size
    if augment.file is not None:
        return _custom(augment, size)
    _check_crop(augment.random_resized_crop)
    transforms = [*_crop(augment, size), *_photometric(augment)]
    cropped = augment.random_resized_crop.enabled
    resizing = _resizing(augment, size, training.validation_resize_size / training.validation_crop_size)
    return TrainingTransform(
        compose=albumentations.Compose(transforms) if transforms else None,
        resizing=resizing,
        short_side=_spared(augment.random_resized_crop, size) if cropped else resizing.short_side,
        resize_first=not cropped,
    )


def _resizing(augment: AugmentConfig, size: int, spare: float) -> Resizing:
    """The evaluation's resizing at the training size, so that both see objects at the same scale."""
    if augment.resize == Letterbox.name:
        return Letterbox(size=size, fill=augment.fill)
    return CenterCrop(resize=max(round(size * spare), size), size=size)


def _spared(crop: CropConfig, size: int) -> int:
    return math.ceil(size * min(_MOST_SPARE, 1 / math.sqrt(crop.scale[0])))


def _check_crop(crop: CropConfig) -> None:
    for name in ("scale", "ratio"):
        values = getattr(crop, name)
        if len(values) != 2 or values[0] > values[1]:
            raise ConfigError(
                f"augment.random_resized_crop.{name}={list(values)}: must be two numbers, the smaller one first."
            )


def _crop(augment: AugmentConfig, size: int) -> list[Any]:
    crop = augment.random_resized_crop
    if not crop.enabled:
        return []
    return [_RandomResizedCrop(size=(size, size), scale=tuple(crop.scale), ratio=tuple(crop.ratio))]


def _photometric(augment: AugmentConfig) -> list[Any]:
    jitter = augment.color_jitter
    colors = albumentations.ColorJitter(
        brightness=_around_one(jitter.brightness),
        contrast=_around_one(jitter.contrast),
        saturation=_around_one(jitter.saturation),
        hue=(-jitter.hue, jitter.hue),
        p=jitter.p,
    )
    transforms = [
        albumentations.HorizontalFlip(p=augment.horizontal_flip.p),
        albumentations.VerticalFlip(p=augment.vertical_flip.p),
        colors,
    ]
    return [transform for transform in transforms if transform.p > 0]


def _around_one(change: float) -> tuple[float, float]:
    return max(1 - change, 0.0), 1 + change


def _custom(augment: AugmentConfig, size: int) -> TrainingTransform:
    if not augment.file:
        raise ConfigError("augment=custom needs a pipeline in YAML. Name it: augment.file=FILE.")
    source = f"augment.file={augment.file}"
    steps = read_pipeline(augment.file)
    transform = TrainingTransform(
        compose=albumentations.Compose([_built(step) for step in steps]),
        resizing=_resizing(augment, size, 1.0),
        short_side=None,
        source=source,
    )
    _try(transform)
    return transform


def _try(transform: TrainingTransform) -> None:
    """Find what is wrong with a pipeline before training: on a picture that is larger than most."""
    picture = np.random.default_rng(0).integers(0, 256, (1024, 1280, 3), dtype=np.uint8)
    for seed in range(3):
        transform(picture, (seed,))


def _built(step: Step) -> Any:
    kind = _transform_class(step)
    children = {} if step.steps is None else {"transforms": [_built(child) for child in step.steps]}
    return _called(lambda: kind(**children, **step.parameters), step)


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
