"""``lav predict``: what a trained model says of pictures, as JSON Lines and, if asked for, as pictures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.keys import key
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import check_output, finite
from lightning_automl_vision.settings import JobConfig

if TYPE_CHECKING:
    from lightning_automl_vision.data.inputs import Picture
    from lightning_automl_vision.model_folder import ModelCard
    from lightning_automl_vision.predictor import Prediction, Predictor

ANSWERS = "predictions.jsonl"
_USED = ("job", "task", "checkpoint", "quiet", "data", "hydra")
_USED_DATA = ("images", "encoding", "url_prefixes", "confine_images", "ignore_data_errors", "maximum_image_pixels")
_BATCH_OF_CLASSIFIERS = 16
_SHOWN_CLASSES = 8


@dataclass
class Config(JobConfig):
    """Ask a trained model, a run's folder given as ``checkpoint``, what pictures show."""

    input: str = key("???", "The pictures: a file, a folder with all below it, a pattern such as 'a/*.jpg', or JSONL.")
    output: str = key("???", f"The folder to write: {ANSWERS} and what else is asked for.")
    draw: bool = key(False, "Write each picture with what was found into pictures/.")
    batch_size: int | None = key(
        None, "Pictures the model sees at once; by default 16 of a classifier's, else 1.", minimum=1
    )
    export_as_image: bool = key(
        False, "Write the mask of each object into masks/, white on black; for instance segmentation."
    )
    image_type: str = key(
        "JPG", "The format of mask pictures; only PNG and BMP are exact.", choices=("JPG", "PNG", "BMP")
    )


def run(settings: Settings) -> None:
    if not isinstance(settings.job, Config):
        raise ConfigError(f"job={settings.job.name} is not predict.")
    predict(settings, settings.job)


def predict(settings: Settings, job: Config) -> Counter[str]:
    """Check, ask, write; says at the end what was found, and counts it."""
    from lightning_automl_vision.data.inputs import pictures_of
    from lightning_automl_vision.model_folder import read_card

    if settings.checkpoint is None:
        more = f" lav predict asks one model, not {settings.runs}." if settings.runs else ""
        raise ConfigError(f"checkpoint is not given.{more} Name a run's folder: checkpoint=PATH.")
    card, _ = read_card(settings.checkpoint)
    _check(settings, job, card)
    pictures = pictures_of(job.input, settings.data, outside=job.output)

    from lightning_automl_vision.predictor import load

    predictor = replace(load(settings.checkpoint), maximum_pixels=settings.data.maximum_image_pixels)
    number = f"{len(pictures)} picture{'s' if pictures[1:] else ''}"
    LOG.info("%s in %s; %s for %s in %s", number, job.input, card.name, card.task, settings.checkpoint)
    return Asking(predictor=predictor, job=job, pictures=pictures, quiet=settings.quiet).run()


def _check(settings: Settings, job: Config, card: ModelCard) -> None:
    """Refuse what would be overwritten, and what would not be obeyed."""
    check_output(job.output, ANSWERS)
    if job.export_as_image and card.task != "image_instance_segmentation":
        raise ConfigError(f"export_as_image=true: the model's task is {card.task}, which knows no masks. Leave it out.")
    if job.image_type != Config.image_type and not job.export_as_image:
        raise ConfigError(f"image_type={job.image_type}: no mask pictures are asked for. Add export_as_image=true.")
    for name, value in given(settings.overrides):
        group, _, below = name.partition(".")
        if name == "task" and value != card.task:
            raise ConfigError(f"task={value}: the task of {settings.checkpoint} is {card.task}. Leave task out.")
        if name == "output_dir":
            raise ConfigError(f"output_dir={value}: lav predict writes to another place. Name it with output={value}.")
        if group not in _USED or (group == "task" and below) or (group == "data" and below not in _USED_DATA):
            raise ConfigError(
                f"{name}={value}: lav predict has no use for it, the model brings all it needs."
                " Leave it out; what may be changed after training stands in the model's settings.json."
            )


@dataclass(kw_only=True)
class Asking:
    """One model, some pictures, and where the answers go."""

    predictor: Predictor
    job: Config
    pictures: Sequence[Picture]
    quiet: bool = True
    found: Counter[str] = field(default_factory=Counter)
    faults: list[DataError] = field(default_factory=list)

    def run(self) -> Counter[str]:
        from lightning_automl_vision.data.writing import write_atomically

        started = time.monotonic()
        file = Path(self.job.output) / ANSWERS
        write_atomically(self._shown(self._rows()), file)
        seconds = time.monotonic() - started
        if self.faults:
            number = f"{len(self.faults)} of {len(self.pictures)} pictures"
            LOG.warning("%s could not be used, as %s says. The first: %s", number, file, self.faults[0])
        if not self.quiet:
            print(self._summary(file, seconds))
        return self.found

    def _rows(self) -> Iterator[dict[str, Any]]:
        from lightning_automl_vision.outlines import prediction_dict

        most_points = polygon_points(self.predictor.card)
        for picture, answer in answers(self.predictor, self.pictures, self._batch_size):
            if isinstance(answer, DataError):
                self.faults.append(answer)
                yield {"filename": picture.name, "error": str(answer)}
                continue
            self.found.update(_names(answer, self.predictor.card.task))
            self._write_pictures(picture, answer)
            yield {"filename": picture.name, **finite(prediction_dict(answer, most_points))}
        if len(self.faults) == len(self.pictures):
            several = f"None of {len(self.pictures)} pictures could be used. The first: " if self.faults[1:] else ""
            raise DataError(
                f"{several}{self.faults[0]} Name a picture that can be read, or more of them, with input=PATH."
            )

    def _write_pictures(self, picture: Picture, answer: Prediction) -> None:
        from lightning_automl_vision.drawing.files import write_annotated, write_masks

        folder = Path(self.job.output)
        if self.job.draw:
            write_annotated(folder / "pictures", picture, answer, self.predictor.maximum_pixels)
        if self.job.export_as_image:
            write_masks(folder / "masks" / picture.stem, answer, self.job.image_type)

    @property
    def _batch_size(self) -> int:
        usual = _BATCH_OF_CLASSIFIERS if self.predictor.card.task.startswith("image_classification") else 1
        return self.job.batch_size or usual

    def _shown(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """With a progress bar on a terminal."""
        import sys

        from tqdm import tqdm

        hidden = self.quiet or not sys.stderr.isatty()
        yield from tqdm(rows, total=len(self.pictures), unit="image", disable=hidden, leave=False, dynamic_ncols=True)

    def _summary(self, file: Path, seconds: float) -> str:
        answered = len(self.pictures) - len(self.faults)
        names = self.found.most_common(_SHOWN_CLASSES)
        counts = ", ".join(f"{name} {count}" for name, count in names)
        more = f" and {len(self.found) - len(names)} more classes" if len(self.found) > len(names) else ""
        what = {
            "image_classification": "most likely",
            "image_classification_multilabel": "scores of at least 0.5",
        }.get(self.predictor.card.task, f"{self.found.total()} objects")
        return (
            f"{file}: {answered} images in {seconds:.1f} s ({answered / max(seconds, 1e-9):.1f} a second);"
            f" {what}{': ' if counts else ''}{counts}{more}."
        )


def answers(
    predictor: Predictor, pictures: Sequence[Picture], batch_size: int
) -> Iterator[tuple[Picture, Prediction | DataError]]:
    """Each picture with what the model says of it, or why it cannot be read; in order."""
    from lightning_automl_vision.data.reading_ahead import read_ahead

    waiting: list[tuple[Picture, Any]] = []
    read = read_ahead(predictor.picture, (picture.image for picture in pictures))
    for picture, content in zip(pictures, read, strict=True):
        waiting.append((picture, content))
        if sum(not isinstance(content, DataError) for _, content in waiting) == batch_size:
            yield from _answered(predictor, waiting)
            waiting = []
    yield from _answered(predictor, waiting)


def _answered(
    predictor: Predictor, waiting: Sequence[tuple[Picture, Any]]
) -> Iterator[tuple[Picture, Prediction | DataError]]:
    good = [content for _, content in waiting if not isinstance(content, DataError)]
    found = iter(predictor.answer(good) if good else ())
    for picture, content in waiting:
        yield picture, content if isinstance(content, DataError) else next(found)


def polygon_points(card: ModelCard) -> int:
    """What the model's settings allow a polygon."""
    from lightning_automl_vision.data.tracing import MOST_POINTS

    value = card.settings.get("max_number_of_polygon_points", MOST_POINTS)
    if type(value) is not int or value < 3:
        raise ConfigError(f"settings.json: max_number_of_polygon_points={value!r} must be an integer of at least 3.")
    return value


def _names(answer: Prediction, task: str) -> Sequence[str]:
    """The classes that an answer counts for."""
    from lightning_automl_vision.samples import ScoredLabels

    if not isinstance(answer, ScoredLabels):
        return answer.names
    if task == "image_classification":
        return [answer.label]
    return [name for name, score in zip(answer.labels, answer.scores, strict=True) if score >= 0.5]
