"""A model asked for one picture after the other: reading, the network and writing go on at the same time."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice, repeat, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.answers_file import AnswersFile, Row
from lightning_automl_vision.errors import ConfigError, DataError, Interrupted
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import finite

if TYPE_CHECKING:
    from lightning_automl_vision.data.inputs import Picture
    from lightning_automl_vision.data.video import Video
    from lightning_automl_vision.jobs.predict import Config
    from lightning_automl_vision.model_folder import ModelCard
    from lightning_automl_vision.predictor import Prediction, Predictor
    from lightning_automl_vision.samples import Pixels

IMAGE_TYPE = "JPG"
_SHOWN_CLASSES = 8
_LIKELY = 0.5  # what a label of several is counted from


@dataclass(kw_only=True)
class Asking:
    """One model, some pictures or a video, and where the answers go."""

    predictor: Predictor
    job: Config
    pictures: Sequence[Picture]
    video: Video | None = None
    file: AnswersFile | None = None
    quiet: bool = True
    found: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    faults: list[str] = field(default_factory=list)

    def run(self) -> Counter[str]:
        started = time.monotonic()
        file = self.file or AnswersFile(folder=Path(self.job.output), form=self.job.format)
        file.check()
        standing = file.standing()
        self._check_standing(standing, file)
        for row in standing:
            self._count(row)
        if standing:
            LOG.info("%d rows stand in %s; going on from there", len(standing), file.part)
        try:
            with file.open():
                for row in self._shown(self._rows(start=len(standing)), len(standing)):
                    file.add(row)
                    self._count(row)
        except KeyboardInterrupt:
            if not self.rows:
                raise
            raise Interrupted(
                f"Interrupted: {self.rows} rows stand in {file.part}. Repeat the command to go on from there."
            ) from None
        self._check_any(file)
        file.complete()
        seconds = time.monotonic() - started
        if self.faults:
            number = f"{len(self.faults)} of {self.rows} pictures"
            LOG.warning("%s could not be used, as %s says. The first: %s", number, file.path, self.faults[0])
        if not self.quiet:
            print(self._summary(file.path, seconds, self.rows - len(standing)))
        return self.found

    def _rows(self, start: int) -> Iterator[Row]:
        """Written as pictures and put into words in another thread, while the network works on what follows."""
        most_points = polygon_points(self.predictor.card)
        waiting: deque[Future[Row]] = deque()
        with ThreadPoolExecutor(1) as thread:
            try:
                for picture, pixels, answer in self._answers(start):
                    waiting.append(thread.submit(self._row, picture, pixels, answer, most_points))
                    while len(waiting) > 2 * self._batch_size or (waiting and waiting[0].done()):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _row(self, picture: Picture, pixels: Pixels | None, answer: Prediction | DataError, most_points: int) -> Row:
        from lightning_automl_vision.outlines import prediction_dict

        if isinstance(answer, DataError):
            return {"filename": picture.name, "error": str(answer)}
        self._write_pictures(picture, pixels, answer)
        return {"filename": picture.name, **finite(prediction_dict(answer, most_points))}

    def _answers(self, start: int) -> Iterator[tuple[Picture, Pixels | None, Prediction | DataError]]:
        if self.video is None:
            for picture, answer in answers(self.predictor, self.pictures[start:], self._batch_size):
                yield picture, None, answer
            return
        yield from answers_of_video(
            self.predictor, self.video, self._batch_size, start=start, with_pixels=self.job.draw
        )

    def _count(self, row: Row) -> None:
        self.rows += 1
        if "error" in row:
            self.faults.append(row["error"])
        else:
            self.found.update(_names(row, self.predictor.card.task))

    def _check_standing(self, standing: Sequence[Row], file: AnswersFile) -> None:
        names = [row["filename"] for row in standing]
        pictures = self.pictures if self.video is None else islice(self.video.pictures(), len(names))
        for name, picture in zip(names, pictures, strict=False):
            if name != picture.name:
                raise ConfigError(
                    f"{file.part} has a row for {name} where {picture.name} should be. Name another folder, or delete"
                    " that file."
                )

    def _check_any(self, file: AnswersFile) -> None:
        if self.rows and len(self.faults) < self.rows:
            return
        file.forget()
        if not self.rows:
            raise DataError(f"input={self.job.input}: has no frame that can be read. Convert it, or name another one.")
        several = f"None of {self.rows} pictures could be used. The first: " if self.faults[1:] else ""
        raise DataError(f"{several}{self.faults[0]} Name a picture that can be read, or more of them, with input=PATH.")

    def _write_pictures(self, picture: Picture, pixels: Pixels | None, answer: Prediction) -> None:
        from lightning_automl_vision.drawing.files import write_annotated, write_masks, write_picture

        folder = Path(self.job.output)
        if self.job.draw and pixels is not None:
            from lightning_automl_vision.drawing.objects import annotated

            write_picture(folder / "pictures" / f"{picture.stem}.jpg", annotated(pixels, answer))
        elif self.job.draw:
            write_annotated(folder / "pictures", picture, answer, self.predictor.maximum_pixels)
        if self.job.export_as_image:
            write_masks(folder / "masks" / picture.stem, answer, self.job.image_type or IMAGE_TYPE)

    @property
    def _batch_size(self) -> int:
        return self.job.batch_size or self.predictor.card.usual_batch_size

    def _shown(self, rows: Iterator[Row], standing: int) -> Iterator[Row]:
        """With a progress bar on a terminal."""
        import sys

        from tqdm import tqdm

        hidden = self.quiet or not sys.stderr.isatty()
        total = len(self.pictures) if self.video is None else self.video.estimate
        yield from tqdm(
            rows, total=total, initial=standing, unit="image", disable=hidden, leave=False, dynamic_ncols=True
        )

    def _summary(self, file: Path, seconds: float, new: int) -> str:
        answered = self.rows - len(self.faults)
        names = self.found.most_common(_SHOWN_CLASSES)
        counts = ", ".join(f"{name} {count}" for name, count in names)
        more = f" and {len(self.found) - len(names)} more classes" if len(self.found) > len(names) else ""
        points = self.predictor.points is not None
        what = {
            "image_classification": "decided for" if points else "most likely",
            "image_classification_multilabel": "decided for" if points else "scores of at least 0.5",
        }.get(self.predictor.card.task, f"{self.found.total()} objects")
        return (
            f"{file}: {answered} images in {seconds:.1f} s ({new / max(seconds, 1e-9):.1f} a second);"
            f" {what}{': ' if counts else ''}{counts}{more}."
        )


def answers(
    predictor: Predictor, pictures: Sequence[Picture], batch_size: int
) -> Iterator[tuple[Picture, Prediction | DataError]]:
    """Each picture with what the model says of it, or why it cannot be read; in order."""
    from lightning_automl_vision.data.reading_ahead import read_ahead

    ahead = 0 if predictor.tiling.cuts else 2 * batch_size

    def prepared(picture: Picture) -> Any:
        if picture.fault is not None:
            raise DataError(picture.fault)
        return predictor.prepared(predictor.picture(picture.image))

    read = read_ahead(prepared, pictures, ahead=ahead)
    for picture, _, answer in _in_batches(predictor, zip(pictures, repeat(None), read, strict=False), batch_size):
        yield picture, answer


def answers_of_video(
    predictor: Predictor, video: Video, batch_size: int, *, start: int = 0, with_pixels: bool = False
) -> Iterator[tuple[Picture, Pixels | None, Prediction | DataError]]:
    """The same of frames, with their pixels where they are to be drawn on; read in one other thread, in order."""
    from lightning_automl_vision.data.reading_ahead import read_ahead

    frames = video.frames(start)

    def prepared(_: int) -> tuple[Pixels | None, Any] | None:
        pixels = next(frames, None)
        if pixels is None or isinstance(pixels, DataError):
            return None if pixels is None else (None, pixels)
        return pixels if with_pixels else None, predictor.prepared(predictor.picture(pixels))

    read = takewhile(lambda content: content is not None, read_ahead(prepared, count(), threads=1, ahead=batch_size))
    contents = (
        (picture, None, content) if isinstance(content, DataError) else (picture, *(content or (None, None)))
        for picture, content in zip(video.pictures(start), read, strict=False)
    )
    yield from _in_batches(predictor, contents, batch_size)


def _in_batches(
    predictor: Predictor, contents: Iterable[tuple[Picture, Pixels | None, Any]], batch_size: int
) -> Iterator[tuple[Picture, Pixels | None, Prediction | DataError]]:
    waiting: list[tuple[Picture, Pixels | None, Any]] = []
    for content in contents:
        waiting.append(content)
        if sum(not isinstance(prepared, DataError) for _, _, prepared in waiting) == batch_size:
            yield from _answered(predictor, waiting)
            waiting = []
    yield from _answered(predictor, waiting)


def _answered(
    predictor: Predictor, waiting: Sequence[tuple[Picture, Pixels | None, Any]]
) -> Iterator[tuple[Picture, Pixels | None, Prediction | DataError]]:
    good = [prepared for _, _, prepared in waiting if not isinstance(prepared, DataError)]
    found = iter(predictor.answer_prepared(good) if good else ())
    for picture, pixels, prepared in waiting:
        yield picture, pixels, prepared if isinstance(prepared, DataError) else next(found)


def polygon_points(card: ModelCard) -> int:
    """What the model's settings allow a polygon."""
    from lightning_automl_vision.data.tracing import MOST_POINTS

    value = card.settings.get("max_number_of_polygon_points", MOST_POINTS)
    if type(value) is not int or value < 3:
        raise ConfigError(f"settings.json: max_number_of_polygon_points={value!r} must be an integer of at least 3.")
    return value


def _names(row: Row, task: str) -> Sequence[str]:
    """The classes that an answer counts for."""
    if "boxes" in row:
        return [found["label"] for found in row["boxes"]]
    if "decided" in row:
        return list(row["decided"])
    pairs = [(score, name) for score, name in zip(row["probs"], row["labels"], strict=True) if score is not None]
    if task == "image_classification":
        return [max(pairs, key=lambda pair: pair[0])[1]] if pairs else []
    return [name for score, name in pairs if score >= _LIKELY]
