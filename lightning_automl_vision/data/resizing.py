"""How a picture that is not augmented is brought to the size a model takes: in validation, prediction and serving.

A resizing is stored in a model's settings and needs neither torch nor albumentations.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.samples import Pixels, Place
from lightning_automl_vision.settings import AugmentConfig, TrainingConfig


class Resizing(ABC):
    """Any picture to one of the size that a model takes."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Pixels: ...

    @abstractmethod
    def place(self, width: int, height: int) -> Place:
        """Where a picture of this size lies in what becomes of it."""

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
        place = self.place(pixels.shape[1], pixels.shape[0])
        left, top = -int(place.left), -int(place.top)
        resized = resized_to(pixels, int(place.width), int(place.height))
        return resized[top : top + self.size, left : left + self.size].copy()

    def place(self, width: int, height: int) -> Place:
        short = self.short_side
        scale = short / min(width, height)
        if width <= height:
            resized = (short, max(round(height * scale), short))
        else:
            resized = (max(round(width * scale), short), short)
        left, top = ((side - self.size) // 2 for side in resized)
        return Place(-left, -top, *resized)

    @property
    def short_side(self) -> int:
        return max(self.resize, self.size)

    def as_settings(self) -> dict[str, Any]:
        return {"resize": self.name, "valid_resize_size": self.resize, "valid_crop_size": self.size}


@dataclass(frozen=True)
class Letterbox(Resizing):
    """A square: the long side becomes ``size`` pixels, the shape stays, and gray fills the rest on both sides."""

    name: ClassVar[str] = "letterbox"
    size: int = 224
    fill: int = 114

    def __call__(self, pixels: Pixels) -> Pixels:
        left, top, width, height = map(int, self.place(pixels.shape[1], pixels.shape[0]))
        return cv2.copyMakeBorder(  # type: ignore[return-value]
            resized_to(pixels, width, height),
            top,
            self.size - height - top,
            left,
            self.size - width - left,
            cv2.BORDER_CONSTANT,
            value=(self.fill,) * 3,
        )

    def place(self, width: int, height: int) -> Place:
        scale = self.size / max(width, height)
        resized = max(round(width * scale), 1), max(round(height * scale), 1)
        left, top = ((self.size - side) // 2 for side in resized)
        return Place(left, top, *resized)

    @property
    def short_side(self) -> int:
        return self.size

    def as_settings(self) -> dict[str, Any]:
        return {"resize": self.name, "valid_crop_size": self.size, "fill": self.fill}


@dataclass(frozen=True)
class ShortSide(Resizing):
    """The short side becomes ``minimum`` pixels, less where the long one would exceed ``maximum``; nothing is cut."""

    name: ClassVar[str] = "short_side"
    minimum: int = 600
    maximum: int = 1333

    def __call__(self, pixels: Pixels) -> Pixels:
        place = self.place(pixels.shape[1], pixels.shape[0])
        return resized_to(pixels, int(place.width), int(place.height))

    def place(self, width: int, height: int) -> Place:
        scale = min(self.minimum / min(width, height), self.maximum / max(width, height))
        return Place(0, 0, max(round(width * scale), 1), max(round(height * scale), 1))

    @property
    def short_side(self) -> int:
        return self.minimum

    def as_settings(self) -> dict[str, Any]:
        return {"resize": self.name, "min_size": self.minimum, "max_size": self.maximum}


@dataclass(frozen=True)
class LongSide(Resizing):
    """The long side becomes ``size`` pixels; nothing is cut and nothing filled."""

    name: ClassVar[str] = "long_side"
    size: int = 640

    def __call__(self, pixels: Pixels) -> Pixels:
        place = self.place(pixels.shape[1], pixels.shape[0])
        return resized_to(pixels, int(place.width), int(place.height))

    def place(self, width: int, height: int) -> Place:
        scale = self.size / max(width, height)
        return Place(0, 0, max(round(width * scale), 1), max(round(height * scale), 1))

    @property
    def short_side(self) -> int:
        return self.size

    def as_settings(self) -> dict[str, Any]:
        return {"resize": self.name, "img_size": self.size}


_USUAL: tuple[Resizing, ...] = (CenterCrop(), Letterbox(), ShortSide(), LongSide())


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
    if kind == ShortSide.name:
        minimum, maximum = (_number(settings, name, source) for name in ("min_size", "max_size"))
        if minimum > maximum:
            raise ConfigError(f"{source}: min_size={minimum} is more than max_size={maximum}. Raise the latter.")
        return ShortSide(minimum=minimum, maximum=maximum)
    if kind == LongSide.name:
        return LongSide(size=_number(settings, "img_size", source))
    complaint = f"resize={kind!r} is not known" if "resize" in settings else "resize is missing"
    raise ConfigError(
        f"{source}: {complaint}. It must be"
        f" {CenterCrop.name}, {Letterbox.name}, {ShortSide.name} or {LongSide.name}.{_suited(settings)}"
    )


def setting_names(resizing: Resizing) -> dict[str, str]:
    """What a model's settings may say of this resizing, in either spelling, with the documented one."""
    return {spelling: name for name in resizing.as_settings() for spelling in (name, _key(name))}


def check_unread(settings: Mapping[str, Any], resizing: Resizing, *, source: str) -> None:
    """ConfigError for what another resizing than the one among these settings reads."""
    read = setting_names(resizing)
    for other in _USUAL:
        for name in setting_names(other):
            if name in settings and name not in read:
                raise ConfigError(
                    f"{source}: {name} is for resize={other.name!r}, and resize={resizing.name!r} does not read it."
                    " Leave it out, or choose another resize."
                )


def _number(settings: Mapping[str, Any], name: str, source: str, least: int = 1, most: int = 1 << 16) -> int:
    """A setting under its documented name or, equally, under that of the configuration key."""
    spellings = [spelling for spelling in dict.fromkeys((name, _key(name))) if spelling in settings]
    if not spellings:
        raise ConfigError(
            f"{source}: resize={settings['resize']!r} needs {name}, which is missing. Give it, or another resize."
            f"{_suited(settings)}"
        )
    value = settings[spellings[0]]
    if any(settings[spelling] != value for spelling in spellings):
        raise ConfigError(f"{source}: {' and '.join(spellings)} are the same setting and differ. Keep one.")
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{source}: {name}={json.dumps(value)} must be an integer in [{least}, {most}].")
    return value


def _suited(settings: Mapping[str, Any]) -> str:
    """Most likely the resizing that the model was made for: the one that has all its numbers there."""
    for kind in _USUAL:
        names = setting_names(kind)
        if {names[spelling] for spelling in settings if spelling in names} >= {*names.values()} - {"resize", "fill"}:
            return f" The numbers that are there suit resize={kind.name!r}."
    return ""


def _key(name: str) -> str:
    return name.replace("valid_", "validation_").replace("img_size", "image_size")


def resized_to(pixels: Pixels, width: int, height: int) -> Pixels:
    """No pixel is skipped, which would give false patterns: linear interpolation does that below half the size."""
    if (height, width) == pixels.shape[:2]:
        return pixels
    skipping = pixels.shape[1] > 2 * width or pixels.shape[0] > 2 * height
    interpolation = cv2.INTER_AREA if skipping else cv2.INTER_LINEAR
    return cv2.resize(pixels, (width, height), interpolation=interpolation)  # type: ignore[return-value]
