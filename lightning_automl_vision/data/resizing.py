"""How a picture that is not augmented is brought to the size a model takes: in validation, prediction and serving.

A resizing is stored in a model's settings and needs neither torch nor albumentations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.samples import Pixels
from lightning_automl_vision.settings import AugmentConfig, TrainingConfig


class Resizing(ABC):
    """Any picture to a square of ``size`` pixels."""

    name: ClassVar[str]
    size: int

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Pixels: ...

    @property
    @abstractmethod
    def short_side(self) -> int:
        """The short side that a picture may be reduced to while it is decoded: nothing is magnified afterwards."""

    @abstractmethod
    def as_settings(self) -> dict[str, Any]:
        """What ``resizing_from_settings`` takes, under the documented names of a model's settings."""


@dataclass(frozen=True)
class CenterCrop(Resizing):
    """The short side becomes ``resize`` pixels, then the middle square is cut out.

    A crop larger than the resized picture is not padded: the short side then becomes as long as the crop.
    """

    name: ClassVar[str] = "crop"
    resize: int = 256
    size: int = 224

    def __call__(self, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        short = self.short_side
        scale = short / min(width, height)
        if width <= height:
            resized = (short, max(round(height * scale), short))
        else:
            resized = (max(round(width * scale), short), short)
        left, top = ((side - self.size) // 2 for side in resized)
        return resized_to(pixels, *resized)[top : top + self.size, left : left + self.size].copy()

    @property
    def short_side(self) -> int:
        return max(self.resize, self.size)

    def as_settings(self) -> dict[str, Any]:
        return {"resize": self.name, "valid_resize_size": self.resize, "valid_crop_size": self.size}


@dataclass(frozen=True)
class Letterbox(Resizing):
    """The long side becomes ``size`` pixels, the picture keeps its shape, and gray fills the rest on both sides."""

    name: ClassVar[str] = "letterbox"
    size: int = 224
    fill: int = 114

    def __call__(self, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        scale = self.size / max(width, height)
        resized = resized_to(pixels, max(round(width * scale), 1), max(round(height * scale), 1))
        below, right = self.size - resized.shape[0], self.size - resized.shape[1]
        return cv2.copyMakeBorder(  # type: ignore[return-value]
            resized,
            below // 2,
            below - below // 2,
            right // 2,
            right - right // 2,
            cv2.BORDER_CONSTANT,
            value=(self.fill,) * 3,
        )

    @property
    def short_side(self) -> int:
        return self.size

    def as_settings(self) -> dict[str, Any]:
        return {"resize": self.name, "valid_crop_size": self.size, "fill": self.fill}


def resizing_of(augment: AugmentConfig, training: TrainingConfig) -> Resizing:
    """What a run's configuration asks for."""
    if augment.resize == Letterbox.name:
        return Letterbox(size=training.validation_crop_size, fill=augment.fill)
    return CenterCrop(resize=training.validation_resize_size, size=training.validation_crop_size)


def resizing_from_settings(settings: Mapping[str, Any], *, source: str) -> Resizing:
    """The resizing among a model's settings; ``source`` is the file that an error names."""
    kind = settings.get("resize")
    if kind == CenterCrop.name:
        return CenterCrop(
            resize=_number(settings, "valid_resize_size", source),
            size=_number(settings, "valid_crop_size", source),
        )
    if kind == Letterbox.name:
        return Letterbox(
            size=_number(settings, "valid_crop_size", source),
            fill=_number({"fill": 114, **settings}, "fill", source, least=0, most=255),
        )
    raise ConfigError(f"{source}: resize={kind!r} is not known. It must be {CenterCrop.name} or {Letterbox.name}.")


def _number(settings: Mapping[str, Any], name: str, source: str, least: int = 1, most: int = 1 << 16) -> int:
    """A setting under its documented name or, equally, under that of the configuration key."""
    spellings = [spelling for spelling in dict.fromkeys((name, _key(name))) if spelling in settings]
    if len({settings[spelling] for spelling in spellings}) > 1:
        raise ConfigError(f"{source}: {' and '.join(spellings)} are the same setting and differ. Keep one.")
    value = settings[spellings[0]] if spellings else None
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{source}: {name}={value!r} must be an integer in [{least}, {most}].")
    return value


def _key(name: str) -> str:
    return name.replace("valid_", "validation_")


def resized_to(pixels: Pixels, width: int, height: int) -> Pixels:
    """No pixel is skipped, which would give false patterns: linear interpolation does that below half the size."""
    if (height, width) == pixels.shape[:2]:
        return pixels
    skipping = pixels.shape[1] > 2 * width or pixels.shape[0] > 2 * height
    interpolation = cv2.INTER_AREA if skipping else cv2.INTER_LINEAR
    return cv2.resize(pixels, (width, height), interpolation=interpolation)  # type: ignore[return-value]
