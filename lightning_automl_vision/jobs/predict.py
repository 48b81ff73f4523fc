"""``lav predict``: what a trained model says of pictures, as JSON Lines or CSV and, if asked for, as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.answers_file import AnswersFile, digest_of, fingerprint
from lightning_automl_vision.asking import Asking, polygon_points
from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key
from lightning_automl_vision.log import LOG
from lightning_automl_vision.settings import JobConfig

if TYPE_CHECKING:
    from lightning_automl_vision.data.inputs import Picture
    from lightning_automl_vision.model_folder import ModelCard

_USED = ("job", "task", "checkpoint", "quiet", "data", "hydra", "trainer.accelerator")
_USED_DATA = ("images", "encoding", "url_prefixes", "confine_images", "ignore_data_errors", "maximum_image_pixels")
__all__ = ["Asking", "Config", "polygon_points", "predict", "run"]


@dataclass
class Config(JobConfig):
    """Ask a trained model, a run's folder given as ``checkpoint``, what pictures show."""

    input: str = key(
        "???",
        "The pictures: a file, a folder and all below it, a pattern such as 'a/*.jpg', JSONL, a video, or `-` (paths on"
        " stdin).",
    )
    output: str = key("???", "The folder to write: predictions.jsonl and what else is asked for.")
    format: str = key(
        "jsonl",
        "The form of the answers: JSON Lines, or `csv`, in predictions.csv a row of each file's name and its answer as"
        " JSON.",
        choices=("jsonl", "csv"),
    )
    every: int | None = key(None, "Of a video's frames only every so-manieth; by default all of them.", minimum=1)
    tta: Any = key(
        None,
        "Test-time augmentation: `flip`, or a list such as [flip, scale 0.9, flip scale 1.2]; each is asked beside the"
        " picture as it is.",
    )
    draw: bool = key(False, "Write each picture with what was found into pictures/.")
    batch_size: int | None = key(
        None, "Pictures the model sees at once; by default 16 of a classifier's, else 1.", minimum=1
    )
    export_as_image: bool = key(
        False, "Write the mask of each object into masks/, white on black; for instance segmentation."
    )
    image_type: str | None = key(
        None,
        "The format of mask pictures, JPG if neither this nor settings.json names one; only PNG and BMP are exact.",
        choices=("JPG", "PNG", "BMP"),
    )


def run(settings: Settings) -> None:
    if not isinstance(settings.job, Config):
        raise ConfigError(f"job={settings.job.name} is not predict.")
    predict(settings, settings.job)


def predict(settings: Settings, job: Config) -> Counter[str]:
    """Check, ask, write; says at the end what was found, and counts it."""
    from lightning_automl_vision.data.video import Video, check_every, is_video
    from lightning_automl_vision.model_folder import read_card

    if settings.checkpoint is None:
        more = f" lav predict asks one model, not {settings.runs}." if settings.runs else ""
        raise ConfigError(f"checkpoint is not given.{more} Name a run's folder: checkpoint=PATH.")
    card, found = read_card(settings.checkpoint)
    job = with_settings(job, card)
    _check(settings, job, card)
    check_every(job.input, job.every)
    from lightning_automl_vision.predictor import check_views, load
    from lightning_automl_vision.views import told_cost, views_of

    views = views_of(job.tta)
    check_views(settings.checkpoint, views)
    video = Video(path=job.input, every=job.every or 1) if is_video(job.input) else None
    pictures: Sequence[Picture] = ()
    if video is None:
        from lightning_automl_vision.data.inputs import pictures_of

        pictures = pictures_of(job.input, settings.data, outside=job.output)
    else:
        video.check(settings.data.maximum_image_pixels)
    file = AnswersFile(
        folder=Path(job.output), form=job.format, asked=_asked(settings, job, found, pictures, [*map(str, views)])
    )
    file.check()
    predictor = replace(
        load(settings.checkpoint, accelerator=settings.trainer.accelerator),
        maximum_pixels=settings.data.maximum_image_pixels,
        views=views,
    )
    number = f"{len(pictures)} picture{'s' if pictures[1:] else ''}" if video is None else "the frames"
    LOG.info("%s in %s; %s for %s in %s", number, job.input, card.name, card.task, settings.checkpoint)
    if len(views) > 1:
        LOG.info(told_cost(views, fixed=card.image_size is not None))
    return Asking(predictor=predictor, job=job, pictures=pictures, video=video, file=file, quiet=settings.quiet).run()


def _asked(
    settings: Settings, job: Config, model: Path, pictures: Sequence[Picture], views: Sequence[str]
) -> dict[str, Any]:
    """All that answers depend on: rows of one command are not continued by another."""
    if pictures:
        of_pictures = digest_of([f"{picture.name} {picture.image}" for picture in pictures])
    else:
        of_pictures = f"{Path(job.input).stat().st_size} bytes"
    return {
        **fingerprint(model),
        "input": job.input,
        "pictures": of_pictures,
        "every": job.every,
        "format": job.format,
        "tta": views,
        "draw": job.draw,
        "export_as_image": job.export_as_image,
        "image_type": job.image_type,
        "data.maximum_image_pixels": settings.data.maximum_image_pixels,
    }


def with_settings(job: Config, card: ModelCard) -> Config:
    """What the command leaves open and settings.json says, under the documented names."""
    if card.task != "image_instance_segmentation":
        return job
    exports, image_type = (card.settings.get(name) for name in ("export_as_image", "image_type"))
    asked = job.export_as_image or bool(exports)
    return replace(job, export_as_image=asked, image_type=job.image_type or (image_type if asked else None))


def _check(settings: Settings, job: Config, card: ModelCard) -> None:
    """Refuse what would not be obeyed."""
    if job.export_as_image and card.task != "image_instance_segmentation":
        raise ConfigError(f"export_as_image=true: the model's task is {card.task}, which knows no masks. Leave it out.")
    if job.image_type is not None and not job.export_as_image:
        raise ConfigError(f"image_type={job.image_type}: no mask pictures are asked for. Add export_as_image=true.")
    for name, value in given(settings.overrides):
        group, _, below = name.partition(".")
        if name == "task" and value != card.task:
            raise ConfigError(f"task={value}: the task of {settings.checkpoint} is {card.task}. Leave task out.")
        if name == "output_dir":
            raise ConfigError(f"output_dir={value}: lav predict writes to another place. Name it with output={value}.")
        used = name in _USED or group in _USED
        if not used or (group == "task" and below) or (group == "data" and below not in _USED_DATA):
            raise ConfigError(
                f"{name}={value}: lav predict has no use for it, the model brings all it needs."
                " Leave it out; what may be changed after training stands in the model's settings.json."
            )
