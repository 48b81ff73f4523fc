"""``load(DIR).predict(images)``: the same preparation as in validation, wherever the model came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lightning_automl_vision.data.images import Sized, decode_sized, part_of, pixels_of, read_sized
from lightning_automl_vision.data.resizing import (
    CenterCrop,
    Letterbox,
    LongSide,
    Resizing,
    ShortSide,
    resizing_from_settings,
    setting_names,
)
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.merging import one_answer
from lightning_automl_vision.model_folder import (
    MODEL,
    SETTINGS,
    WEIGHTS,
    ModelCard,
    check_settings,
    chosen_parameters,
    load_weights,
    read_card,
)
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.samples import Pixels, ScoredBoxes, ScoredLabels, ScoredMasks
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.task_settings import ObjectTaskConfig
from lightning_automl_vision.tiling_plan import Tiling, tiling_from_settings, tiling_names

if TYPE_CHECKING:
    from PIL.Image import Image

    from lightning_automl_vision.models import VisionModel

    Picture = str | PathLike[str] | bytes | Pixels | Image

V = TypeVar("V")
Prediction = ScoredLabels | ScoredBoxes | ScoredMasks
# Prepared pictures, which may differ in size, to a prediction for each.
Network = Callable[[Sequence[Pixels]], Sequence[Prediction]]


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model that takes pictures and gives a prediction for each.

    Where ``tiling`` cuts, the network is shown ``windows_at_once`` windows, and a picture is answered for as a whole.
    """

    card: ModelCard
    resizing: Resizing
    network: Network
    tiling: Tiling = field(default_factory=Tiling)
    windows_at_once: int = 1  # more save nothing without a GPU
    maximum_pixels: int = DataConfig.maximum_image_pixels

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.card.labels)

    def predict(self, images: Iterable[Picture], *, batch_size: int = 16) -> list[Any]:
        """A prediction for each of: path, URL, encoded bytes, H x W x 3 RGB array of uint8, Pillow image.

        ScoredLabels from a classifier; from a detector ScoredBoxes, from a segmenting one ScoredMasks, in the pixels of
        the picture.
        """
        if isinstance(images, (str, bytes, PathLike)):
            raise DataError("predict takes several images. Put the one in brackets: predict([image]).")
        return [
            prediction
            for batch in batched(images, batch_size)
            for prediction in self.answer([self.picture(image) for image in batch])
        ]

    def answer(self, pictures: Sequence[Sized]) -> list[Any]:
        """A prediction for each picture that ``picture`` gave, all of them in one batch, or window by window."""
        if self.tiling.cuts:
            return self._merged(pictures)
        predictions = self.network([self.resizing(pixels) for pixels, _ in pictures])
        return [
            self._named(prediction, pixels, size)
            for prediction, (pixels, size) in zip(predictions, pictures, strict=True)
        ]

    def _merged(self, pictures: Sequence[Sized]) -> list[ScoredBoxes]:
        windows = [
            (picture, window) for picture, (_, size) in enumerate(pictures) for window in self.tiling.windows(*size)
        ]
        parts: list[list[ScoredBoxes]] = [[] for _ in pictures]
        for some in batched(windows, self.windows_at_once):
            shown = [part_of(pictures[picture][0], window) for picture, window in some]
            found = self.network([self.resizing(pixels) for pixels in shown])
            for (picture, window), prediction in zip(some, found, strict=True):
                assert isinstance(prediction, ScoredBoxes)
                place = self.resizing.place(int(window.width), int(window.height))
                parts[picture].append(prediction.seen_through(place, window, *pictures[picture][1]))
        return [replace(one_answer(answers, self.tiling.merge), classes=self.labels) for answers in parts]

    def _named(self, prediction: Prediction, pixels: Pixels, size: tuple[int, int]) -> Prediction:
        if isinstance(prediction, ScoredLabels):
            return replace(prediction, labels=self.labels)
        place = self.resizing.place(pixels.shape[1], pixels.shape[0])
        return replace(prediction.restored(place, *size), classes=self.labels)

    def picture(self, image: Picture) -> Sized:
        """A picture as the model needs it, and the width and height that it has."""
        maximum, short_side = self.maximum_pixels, None if self.tiling.cuts else self.resizing.short_side
        if isinstance(image, (str, PathLike)):
            return read_sized(image, maximum_pixels=maximum, short_side=short_side)
        if isinstance(image, bytes):
            return decode_sized(image, name="the given bytes", maximum_pixels=maximum, short_side=short_side)
        if isinstance(image, np.ndarray):
            pixels = _checked(image)
        elif hasattr(image, "getexif"):
            pixels = pixels_of(image, maximum_pixels=maximum)
        else:
            kind = type(image).__name__
            raise DataError(f"predict takes no {kind}: give paths, URLs, bytes, RGB arrays or Pillow images.")
        return pixels, (pixels.shape[1], pixels.shape[0])


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A model folder that was read and checked; ``folder`` is where its weights lie."""

    card: ModelCard
    folder: Path
    resizing: Resizing
    tiling: Tiling

    def build(self) -> VisionModel[Any, Any]:
        """The network with its weights, as it was validated."""
        card, spec = self.card, model_spec(self.card.name)
        parameters = chosen_parameters(card, spec.config, str(self.folder / SETTINGS))
        if "pretrained" in spec.config.__dataclass_fields__:
            parameters["pretrained"] = False  # whatever the folder says: it brings its own weights
        try:
            size: Any = card.size_of_building
            model = spec.build_with(parameters, task=card.task, num_classes=len(card.labels), image_size=size)
        except TypeError as error:
            raise ConfigError(
                f"{self.folder / MODEL}: {card.name} cannot be built from its parameters: {error}."
            ) from None
        load_weights(model, self.folder / WEIGHTS)
        model.eval()
        return model


def open_model(folder: str | PathLike[str]) -> OpenedModel:
    """The model of a run, or a model folder."""
    card, found = read_card(Path(folder))
    source = str(found / SETTINGS)
    resizing = resizing_from_settings(card.settings, source=source)
    finds_objects = issubclass(TASKS[card.task].config, ObjectTaskConfig)
    known = {**setting_names(resizing), **(tiling_names() if finds_objects else {})}
    check_settings(card, known, source=source)
    _check_kind(card, resizing, source)
    tiling = tiling_from_settings(card.settings, source=source) if finds_objects else Tiling()
    return OpenedModel(card=card, folder=found, resizing=resizing, tiling=tiling)


def load(folder: str | PathLike[str]) -> Predictor:
    """The model of a run, or of a model folder, ready to be asked."""
    opened = open_model(folder)
    return Predictor(card=opened.card, resizing=opened.resizing, network=_torch_network(opened), tiling=opened.tiling)


def _check_kind(card: ModelCard, resizing: Resizing, source: str) -> None:
    """A classifier takes squares of one size; a detector must see the whole picture."""
    if card.image_size is not None and not isinstance(resizing, (CenterCrop, Letterbox)):
        raise ConfigError(
            f"{source}: resize={resizing.name!r} makes pictures of many shapes, and {card.name} takes squares."
            f" Choose {CenterCrop.name} or {Letterbox.name}."
        )
    if card.image_size is None and isinstance(resizing, CenterCrop):
        raise ConfigError(
            f"{source}: resize={resizing.name!r} cuts the borders off, and {card.name} would find nothing there."
            f" Choose {Letterbox.name}, {ShortSide.name} or {LongSide.name}."
        )


def _torch_network(opened: OpenedModel) -> Network:
    import torch

    from lightning_automl_vision.data.batching import no_targets
    from lightning_automl_vision.data.module import padded
    from lightning_automl_vision.models import Batch

    model = opened.build()
    model.for_prediction()

    def network(pictures: Sequence[Pixels]) -> Sequence[Prediction]:
        images, sizes = padded(pictures)
        batch = Batch(images=images, targets=no_targets(len(pictures)), keys=[""] * len(pictures), sizes=sizes)
        with torch.inference_mode():
            return model.predict(batch)

    return network


def _checked(image: Pixels) -> Pixels:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"An array must be H x W x 3 RGB of uint8, this one is {image.shape} of {image.dtype}.")
    return image


def batched(values: Iterable[V], size: int) -> Iterator[Sequence[V]]:
    """So many at a time, the last ones fewer."""
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch
