"""The documented answers for pictures, wherever they are asked for: batch scoring, MLflow; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.asking import answers, polygon_points
from lightning_automl_vision.data.inputs import Picture
from lightning_automl_vision.errors import DataError
from lightning_automl_vision.outlines import prediction_dict
from lightning_automl_vision.run import finite

if TYPE_CHECKING:
    from lightning_automl_vision.predictor import Predictor

Answer = dict[str, Any]


def documented(
    predictor: Predictor, pictures: Sequence[Any], batch_size: int | None = None
) -> Iterator[Answer | DataError]:
    """The answer for each path, URL or encoded bytes, in order, or why it cannot be used.

    The model sees ``batch_size`` pictures at once.
    """
    most_points = polygon_points(predictor.card)
    unnamed = [Picture("", picture, "") for picture in pictures]
    for _, answer in answers(predictor, unnamed, batch_size or predictor.card.usual_batch_size):
        yield answer if isinstance(answer, DataError) else finite(prediction_dict(answer, most_points))
