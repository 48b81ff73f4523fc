"""``load(DIR).predict(images)``: the same preparation as in validation, wherever the model came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_automl_vision.data.images import decode_image, pixels_of, read_image
from lightning_automl_vision.data.resizing import Resizing, resizing_from_settings
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.model_folder import MODEL, WEIGHTS, ModelCard, load_weights, read_card
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.samples import Pixels, ScoredLabels
from lightning_automl_vision.settings import DataConfig

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | PathLike[str] | bytes | Pixels | Image

Network = Callable[[Pixels], list[ScoredLabels]]


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model that takes pictures and gives a prediction for each."""

    card: ModelCard
    resizing: Resizing
    network: Network
    maximum_pixels: int = DataConfig.maximum_image_pixels

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.card.labels)

    def predict(self, images: Iterable[Picture], *, batch_size: int = 16) -> list[ScoredLabels]:
        """One prediction for each of: path, URL, encoded bytes, H x W x 3 RGB array of uint8, Pillow image."""
        if isinstance(images, (str, bytes, PathLike)):
            raise DataError("predict takes several images. Put the one in brackets: predict([image]).")
        return [
            replace(prediction, labels=self.labels)
            for batch in _batches(images, batch_size)
            for prediction in self.network(np.stack([self.resizing(self._pixels(image)) for image in batch]))
        ]

    def _pixels(self, image: Picture) -> Pixels:
        if isinstance(image, (str, PathLike)):
            short_side = self.resizing.short_side
            return read_image(image, maximum_pixels=self.maximum_pixels, short_side=short_side)
        if isinstance(image, bytes):
            short_side = self.resizing.short_side
            return decode_image(
                image, name="the given bytes", maximum_pixels=self.maximum_pixels, short_side=short_side
            )
        if isinstance(image, np.ndarray):
            return _checked(image)
        if not hasattr(image, "getexif"):
            kind = type(image).__name__
            raise DataError(f"predict takes no {kind}: give paths, URLs, bytes, RGB arrays or Pillow images.")
        return pixels_of(image, maximum_pixels=self.maximum_pixels)


def load(folder: str | PathLike[str]) -> Predictor:
    """The model of a run, or of a model folder, ready to be asked."""
    card, found = read_card(Path(folder))
    return Predictor(
        card=card,
        resizing=resizing_from_settings(card.settings, source=str(found / "settings.json")),
        network=_torch_network(card, found),
    )


def _torch_network(card: ModelCard, folder: Path) -> Network:
    import torch

    from lightning_automl_vision.models import Batch, Targets

    spec = model_spec(card.name)
    parameters = dict(card.parameters)
    if "pretrained" in spec.config.__dataclass_fields__:
        parameters["pretrained"] = False  # whatever the folder says: it brings its own weights
    try:
        model = spec.build(task=card.task, num_classes=len(card.labels), image_size=card.image_size, **parameters)
    except TypeError as error:
        raise ConfigError(f"{folder / MODEL}: {card.name} cannot be built from its parameters: {error}.") from None
    load_weights(model, folder / WEIGHTS)
    model.eval()

    def network(images: Pixels) -> list[ScoredLabels]:
        with torch.inference_mode():
            tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            unknown = Targets(labels=torch.zeros(len(images), dtype=torch.int64))
            batch = Batch(images=tensor, targets=unknown, keys=[""] * len(images))
            predictions: list[ScoredLabels] = model.predict(batch)
            return predictions

    return network


def _checked(image: Pixels) -> Pixels:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"An array must be H x W x 3 RGB of uint8, this one is {image.shape} of {image.dtype}.")
    return image


def _batches(images: Iterable[Picture], size: int) -> Iterator[Sequence[Picture]]:
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch
