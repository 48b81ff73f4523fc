"""Both sides of an export asked about the same pictures: what they say, how good it is, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from lightning_automl_vision.data.images import Sized
from lightning_automl_vision.errors import RequirementError, VisionError
from lightning_automl_vision.examination import LabelsExamination, ObjectsExamination, examination_of
from lightning_automl_vision.export.agreement import agreement
from lightning_automl_vision.export.pictures import Pictures
from lightning_automl_vision.model_folder import ModelCard, parameter
from lightning_automl_vision.predictor import Predictor

_WORST = 5
_DIGITS = 16  # of a float, and no more tell anything apart


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: what it said of each picture, and the seconds each took, the reading left out."""

    predictor: Predictor
    exported: bool
    said: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def ask(self, place: str) -> None:
        picture = self.predictor.picture(place)
        if not self.said:
            self._answer(picture, place)  # the first answer takes as long as getting ready does
        started = time.perf_counter()
        self.said.extend(self._answer(picture, place))
        self.seconds.append(time.perf_counter() - started)

    def _answer(self, picture: Sized, place: str) -> list[Any]:
        """RequirementError where the export has no answer at all: a runtime's errors are its own."""
        try:
            return self.predictor.answer([picture])
        except Exception as error:
            if isinstance(error, VisionError) or not self.exported:
                raise
            raise RequirementError(
                f"The exported network cannot be asked about {place}: {' '.join(str(error).split())[:300]}."
                " Choose another format."
            ) from error

    def metrics(self, pictures: Pictures) -> Mapping[str, float]:
        """As an evaluation has them; nothing without labels."""
        if pictures.labelled is None:
            return {}
        examined = examination_of(self.predictor, pictures.labelled, pictures.judged_by)
        if isinstance(examined, LabelsExamination):
            examined.said.extend(self.said)
        elif isinstance(examined, ObjectsExamination):
            for index, answer in enumerate(self.said):
                examined.judged.keep(index, answer)
        return examined.metrics()


@dataclass(frozen=True, kw_only=True)
class Parity:
    """``same`` has a value from 0 to 1 for each picture; ``metric`` is that of the torch model, then of the export."""

    pictures: Pictures
    same: Sequence[float]
    metric_name: str
    metric: tuple[float, float] | None
    seconds: tuple[float, float]

    @property
    def worst(self) -> list[int]:
        """The pictures whose answers differ most, the worst first."""
        order = np.argsort(np.array(self.same), kind="stable")[:_WORST].tolist()
        return [index for index in order if self.same[index] < 1]

    def drop(self) -> float | None:
        """How much worse the export is."""
        return None if self.metric is None else self.metric[0] - self.metric[1]

    def fault(self, tolerance: float, *, exact: bool) -> str | None:
        """Why the export is not as good as it should be, or None.

        One that keeps its digits, or has no labels to be judged by, must give the same answers too.
        """
        drop, mean = self.drop(), float(np.mean(self.same))
        if drop is not None and drop > tolerance:
            before, after = self.metric or (0, 0)
            lower, higher = told_apart(after, before)
            return f"{self.metric_name} drops from {higher} to {lower}, by more than {tolerance:g}"
        if (exact or drop is None) and 1 - mean > tolerance:
            lower, higher = told_apart(mean, 1 - tolerance)
            return f"answers agree by {lower}, which is less than {higher.rstrip('0').rstrip('.')}"
        return None

    def as_dict(self) -> dict[str, Any]:
        before, after = self.metric or (None, None)
        return {
            "source": self.pictures.source,
            "images": len(self.same),
            "labelled": self.pictures.labelled is not None,
            "metric": {"name": self.metric_name, "torch": before, "exported": after, "drop": self.drop()},
            "agreement": {"mean": float(np.mean(self.same)), "lowest": float(np.min(self.same))},
            "seconds_per_image": {"torch": self.seconds[0], "exported": self.seconds[1]},
            "worst": [{"filename": self.pictures.names[index], "agreement": self.same[index]} for index in self.worst],
        }


def compare(reference: Predictor, exported: Predictor, pictures: Pictures) -> Parity:
    """Picture by picture and in turn, so that what else the machine does concerns both."""
    sides = Side(predictor=reference, exported=False), Side(predictor=exported, exported=True)
    for number, place in enumerate(pictures.places):
        for side in sides if number % 2 else reversed(sides):
            side.ask(place)
    limits = limits_of(reference.card)
    same = [agreement(one, other, **limits) for one, other in zip(sides[0].said, sides[1].said, strict=True)]
    name = pictures.judged_by.primary_metric
    values = [side.metrics(pictures).get(name) for side in sides]
    known = [value for value in values if value is not None and np.isfinite(value)]
    return Parity(
        pictures=pictures,
        same=same,
        metric_name=name,
        metric=(known[0], known[1]) if len(known) == len(sides) else None,
        seconds=(median(sides[0].seconds), median(sides[1].seconds)),
    )


def told_apart(lower: float, higher: float, digits: int = 4) -> tuple[str, str]:
    """With as many digits as it takes to see that they differ."""
    texts = f"{lower:.{digits}f}", f"{higher:.{digits}f}"
    return texts if texts[0] != texts[1] or digits > _DIGITS else told_apart(lower, higher, digits + 1)


def limits_of(card: ModelCard) -> dict[str, Any]:
    """What ``agreement`` is to know of the model."""
    return {
        "threshold": parameter(card, "box_score_threshold") or 0.0,
        "most": parameter(card, "box_detections_per_image"),
    }
