"""``load(DIR).predict(images)``: the same preparation as in validation, wherever the model came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
    check_unread,
    resizing_from_settings,
    setting_names,
)
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.installed import require_torch
from lightning_automl_vision.merging import Merge, one_answer
from lightning_automl_vision.model_folder import (
    INFERENCE,
    MODEL,
    SETTINGS,
    WEIGHTS,
    ModelCard,
    check_settings,
    chosen_parameters,
    load_weights,
    parameter,
    read_card,
)
from lightning_automl_vision.operating_points import POINTS, USE, OperatingPoints, points_in
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.samples import Pixels, ScoredBoxes, ScoredLabels, ScoredMasks
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.task_settings import ObjectTaskConfig
from lightning_automl_vision.tiling_plan import Tiling, tiling_from_settings, tiling_names
from lightning_automl_vision.views import PLAIN, View, averaged, resizings_for

if TYPE_CHECKING:
    from PIL.Image import Image

    from lightning_automl_vision.models import VisionModel

    Picture = str | PathLike[str] | bytes | Pixels | Image

V = TypeVar("V")
Prediction = ScoredLabels | ScoredBoxes | ScoredMasks
_USUAL_OVERLAP = 0.5
# Prepared pictures, which may differ in size, to a prediction for each.
Network = Callable[[Sequence[Pixels]], Sequence[Prediction]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A picture of this size as the network is shown it, once for each view; ``whole`` where it is still to be cut.

    ``decoded`` are the width and height that it was prepared from.
    """

    size: tuple[int, int]
    decoded: tuple[int, int]
    shown: tuple[Pixels, ...] = ()
    whole: Pixels | None = None


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model that takes pictures and gives a prediction for each.

    Where ``tiling`` cuts, the network is shown ``windows_at_once`` windows, and a picture is answered for as a whole.
    Each picture, or window, is shown in every one of the ``views``. ``points`` are the operating points in use.
    """

    card: ModelCard
    resizing: Resizing
    network: Network
    tiling: Tiling = field(default_factory=Tiling)
    views: tuple[View, ...] = (PLAIN,)
    points: OperatingPoints | None = None
    windows_at_once: int = 1  # more save nothing without a GPU
    maximum_pixels: int = DataConfig.maximum_image_pixels

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.card.labels)

    @cached_property
    def resizings(self) -> tuple[Resizing, ...]:
        """How a picture is prepared for each view; ConfigError where the model has no use for one."""
        fixed = self.card.image_size is not None
        return resizings_for(self.views, self.resizing, model=self.card.name, fixed=fixed)

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
        return self.answer_prepared([self.prepared(picture) for picture in pictures])

    def prepared(self, picture: Sized) -> Prepared:
        """What may be done in another thread while the network works."""
        pixels, size = picture
        if not self.tiling.cuts:
            return self._shown(pixels, size)
        return Prepared(size=size, decoded=size, whole=pixels)

    def answer_prepared(self, pictures: Sequence[Prepared]) -> list[Any]:
        if self.tiling.cuts:
            merged = [one_answer([*parts.values()], self.tiling.merge) for parts in self.parts(pictures)]
            return [self._decided(replace(answer, classes=self.labels)) for answer in merged]
        return [self._decided(self._named(prediction)) for prediction in self._asked(pictures)]

    def parts(self, pictures: Sequence[Prepared]) -> list[dict[Window, ScoredBoxes]]:
        """What is found through each window of the pictures, in their pixels, neither merged nor decided upon."""
        windows = [
            (number, window) for number, picture in enumerate(pictures) for window in self.tiling.windows(*picture.size)
        ]
        parts: list[dict[Window, ScoredBoxes]] = [{} for _ in pictures]
        for some in batched(windows, self.windows_at_once):
            shown = [self._shown_window(pictures[number], window) for number, window in some]
            for (number, window), found in zip(some, self._asked(shown), strict=True):
                assert isinstance(found, ScoredBoxes)
                parts[number][window] = found.moved(window, *pictures[number].size)
        return parts

    def _shown_window(self, picture: Prepared, window: Window) -> Prepared:
        assert picture.whole is not None
        return self._shown(part_of(picture.whole, window), (int(window.width), int(window.height)))

    def _shown(self, pixels: Pixels, size: tuple[int, int]) -> Prepared:
        shown = tuple(view.shown(resizing(pixels)) for view, resizing in zip(self.views, self.resizings, strict=True))
        return Prepared(size=size, decoded=(pixels.shape[1], pixels.shape[0]), shown=shown)

    def _asked(self, pictures: Sequence[Prepared]) -> list[Prediction]:
        """What all views of each picture say together, of objects in its pixels."""
        by_view = [self._seen_in(number, pictures) for number in range(len(self.views))]
        return [self._together(answers) for answers in zip(*by_view, strict=True)]

    def _seen_in(self, number: int, pictures: Sequence[Prepared]) -> Iterator[Prediction]:
        view, resizing = self.views[number], self.resizings[number]
        found = self.network([picture.shown[number] for picture in pictures])
        for prediction, picture in zip(found, pictures, strict=True):
            if isinstance(prediction, ScoredLabels):
                yield prediction
            else:
                yield view.undone(prediction).restored(resizing.place(*picture.decoded), *picture.size)

    def _together(self, answers: Sequence[Prediction]) -> Prediction:
        first, *others = answers
        if not others:
            return first
        if isinstance(first, ScoredLabels):
            return averaged([answer for answer in answers if isinstance(answer, ScoredLabels)])
        found = [answer for answer in answers if isinstance(answer, ScoredBoxes)]
        return one_answer(found, self._merge_of_views)

    @cached_property
    def _merge_of_views(self) -> Merge:
        """As the model itself does with what overlaps."""
        overlap = parameter(self.card, "nms_iou_threshold")
        return Merge(threshold=_USUAL_OVERLAP if overlap is None else float(overlap))

    def _named(self, prediction: Prediction) -> Prediction:
        if isinstance(prediction, ScoredLabels):
            return replace(prediction, labels=self.labels)
        return replace(prediction, classes=self.labels)

    def _decided(self, prediction: Prediction) -> Prediction:
        if self.points is None:
            return prediction
        if isinstance(prediction, ScoredLabels):
            return self.points.of_labels(prediction)
        return self.points.of_objects(prediction)

    def picture(self, image: Picture) -> Sized:
        """A picture as the model needs it, and the width and height that it has."""
        maximum = self.maximum_pixels
        short_side = None if self.tiling.cuts else max(resizing.short_side for resizing in self.resizings)
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
    points: OperatingPoints | None = None

    def answering_above(self, score: float) -> OpenedModel:
        """A detector that answers with everything that scores more than this."""
        name = "box_score_threshold"
        if name not in self.card.parameters:
            return self
        others = {key: value for key, value in self.card.settings.items() if key not in (name, INFERENCE[name])}
        return replace(self, card=replace(self.card, settings={**others, INFERENCE[name]: score}))

    def build(self) -> VisionModel[Any, Any]:
        """The network with its weights, as it was validated."""
        card, spec = self.card, model_spec(self.card.name)
        if card.exported is not None:
            raise ConfigError(
                f"{self.folder} holds an exported network, which can be asked and no more. Name the run's folder."
            )
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
    of_points = {name: name for name in (POINTS, USE)}
    known = {**setting_names(resizing), **(tiling_names() if finds_objects else {}), **of_points}
    check_unread(card.settings, resizing, source=source)
    check_settings(card, known, source=source)
    chosen_parameters(card, model_spec(card.name).config, source)
    _check_kind(card, resizing, source)
    tiling = tiling_from_settings(card.settings, source=source) if finds_objects else Tiling()
    points = points_in(card, source=source)
    return OpenedModel(card=card, folder=found, resizing=resizing, tiling=tiling, points=points)


def check_views(folder: str | PathLike[str], views: Sequence[View]) -> None:
    """ConfigError for a view that the model of the folder has no use for; builds nothing."""
    opened = open_model(folder)
    resizings_for(views, opened.resizing, model=opened.card.name, fixed=opened.card.image_size is not None)


def load(
    folder: str | PathLike[str], *, above: float | None = None, calibrated: bool = True, accelerator: str = "cpu"
) -> Predictor:
    """The model of a run, or of a model folder, ready to be asked.

    A detector answers with objects that score more than ``above``, where that is given, whatever its settings say;
    without ``calibrated`` operating points stay out of use. An ``accelerator`` is for whoever asks torch.
    """
    opened = open_model(folder)
    points = opened.points if calibrated else None
    if above is None and points is not None:
        above = points.lowest_score
    asked = opened if above is None else opened.answering_above(above)
    network = _torch_network(asked, accelerator) if asked.card.exported is None else _exported_network(asked)
    return Predictor(card=opened.card, resizing=opened.resizing, network=network, tiling=opened.tiling, points=points)


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


def _exported_network(opened: OpenedModel) -> Network:
    from lightning_automl_vision.export.runtime import exported_network

    return exported_network(opened)


def _torch_network(opened: OpenedModel, accelerator: str) -> Network:
    require_torch(opened.folder)
    import torch

    from lightning_automl_vision.data.batching import no_targets
    from lightning_automl_vision.data.module import padded
    from lightning_automl_vision.models import Batch
    from lightning_automl_vision.training.devices import device_of

    device = device_of(accelerator)
    model = opened.build().to(device)
    model.for_prediction()

    def network(pictures: Sequence[Pixels]) -> Sequence[Prediction]:
        images, sizes = padded(pictures)
        batch = Batch(images=images, targets=no_targets(len(pictures)), keys=[""] * len(pictures), sizes=sizes)
        with torch.inference_mode():
            return model.predict(batch if device == "cpu" else batch.to(device))

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
