"""``lav inspect``: labelled images to look at, as they are or as a model in training is given them; and reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError, VisionError
from lightning_automl_vision.keys import key
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import write_json
from lightning_automl_vision.settings import JobConfig, ObjectAugmentConfig
from lightning_automl_vision.specs import without_published
from lightning_automl_vision.storage import writing

if TYPE_CHECKING:
    from lightning_automl_vision.data.module import Item
    from lightning_automl_vision.data.prepared import Transform
    from lightning_automl_vision.data.resizing import Resizing
    from lightning_automl_vision.data.window_sampling import Cut
    from lightning_automl_vision.samples import Labels, Pixels
    from lightning_automl_vision.tile_advice import Advice, Layout

AUGMENTATIONS, ANNOTATIONS = "augmentations", "annotations"
TILING = "tiling"
_UNUSED = ("trainer", "limits", "logger", "checkpoint", "runs", "resume")
# What a report on tiling makes of the augmentation: how pictures are resized.
_OF_RESIZING = ("augment", "augment.resize", "augment.letterbox_size")
_MOSAIC = 4
_LONGEST_LIST = 3


@dataclass
class Config(JobConfig):
    """Look at labelled images, those of ``data.training``: as they are, as a model in training gets them, or tiled."""

    pictures: str | None = key(
        None,
        "The pictures to write: `augmentations` are the first ones of a training with this model and seed,"
        " `annotations` the images as they are labelled.",
        choices=(AUGMENTATIONS, ANNOTATIONS),
    )
    count: int = key(16, "How many pictures.", minimum=1, maximum=400)
    report: str | None = key(
        None,
        "The report to write: `tiling` tells from the labels what each grid and overlap would do for this model, and"
        " recommends one, as a table, tiling.json and tiling.png.",
        choices=(TILING,),
    )
    output: str = key("???", "The folder to write; a sheet is named after its pictures, such as annotations.jpg.")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a sheet; the target is in its pixels."""

    pixels: Pixels
    target: Labels
    captions: Sequence[str]


def run(settings: Settings) -> None:
    job = settings.job
    if not isinstance(job, Config):
        raise ConfigError(f"job={job.name} is not inspect.")
    _check(settings, job)
    if job.pictures is not None:
        write_sheet(settings, job)
    if job.report is not None:
        write_tiling_report(settings, job)


def write_sheet(settings: Settings, job: Config) -> Path:
    """Read, draw, write; says in one line what was written and what it needs to be repeated."""
    from lightning_automl_vision.jobs.checking import seeded

    file = Path(job.output) / f"{job.pictures}.jpg"
    settings = seeded(settings)
    classes, pictures = (_augmented if job.pictures == AUGMENTATIONS else _annotated)(settings)
    number = _written(file, pictures, classes, job.count)
    what = "pictures as a training sees them" if job.pictures == AUGMENTATIONS else "images as they are labelled"
    seed = settings.training.random_seed
    print(f"{file}: {number} {what}, of {settings.data.training}; training.random_seed={seed} repeats them.")
    return file


def write_tiling_report(settings: Settings, job: Config) -> Path:
    """Measure, print, write and draw what tiling would do; says which keys use what is recommended."""
    from lightning_automl_vision.data.labelled import read_labelled
    from lightning_automl_vision.drawing.files import write_picture
    from lightning_automl_vision.drawing.tile_chart import chart_of
    from lightning_automl_vision.tile_advice import NO_TILING, Survey, advice_table, advise, layout_of

    images = read_labelled(str(settings.data.training), settings.task.name, settings.data)
    layout, resizing = layout_of(images), _resizing(settings, len(images.classes))
    survey = Survey(layout, resizing)
    advice = advise(survey)
    chosen, reason = advice.recommended, f"{advice.reason[:1].upper()}{advice.reason[1:]}."
    told = f"{len(layout)} objects in {len(images)} images of {settings.data.training}, for {settings.model.name}"
    picture = chart_of(
        advice,
        survey.sizes(NO_TILING, 0.0),
        survey.sizes(chosen.grid, chosen.overlap_ratio),
        heading=f"Recommended: {chosen.words}",
        lines=[reason, f"{told}."],
    )
    file, chart = (Path(job.output) / f"{TILING}.{suffix}" for suffix in ("json", "png"))
    write_json(file, _told(settings, layout, resizing, advice))
    write_picture(chart, picture)
    print(advice_table(advice))
    print(f"\n{told}. Recommended: {chosen.words}. {reason}")
    print(f"{file} and {chart.name} tell of all {len(advice.candidates)} candidates.")
    print(f"To use it: {chosen.keys}")
    return file


def _told(settings: Settings, layout: Layout, resizing: Resizing, advice: Advice) -> dict[str, Any]:
    from lightning_automl_vision.tile_advice import DEFINITIONS

    return {
        "data": settings.data.training,
        "task": settings.task.name,
        "model": settings.model.name,
        "resizing": resizing.as_settings(),
        "images": len(layout.sizes),
        "objects": len(layout),
        "recommended": {**advice.recommended.as_dict(), "reason": advice.reason, "keys": advice.recommended.keys},
        "pareto": [effect.name for effect in advice.pareto],
        "candidates": [effect.as_dict() for effect in advice.candidates],
        "definitions": DEFINITIONS,
    }


def _check(settings: Settings, job: Config) -> None:
    """Refuses what would be overwritten, and what would not be obeyed."""
    from lightning_automl_vision.jobs.checking import check

    if job.pictures is None and job.report is None:
        raise ConfigError(
            f"lav inspect was asked for nothing. Say what to write: pictures={AUGMENTATIONS} or report={TILING}."
        )
    for name, value in given(settings.overrides):
        _check_use(name, value, job)
    if job.report == TILING and not isinstance(settings.augment, ObjectAugmentConfig):
        raise ConfigError(
            f"report={TILING}: tiling is for finding small objects, and {settings.task.name} finds none."
            " Choose task=image_object_detection or image_instance_segmentation, or leave the report out."
        )
    check(settings)
    _check_output(job)


def _check_use(name: str, value: str, job: Config) -> None:
    group = name.partition(".")[0]
    if name == "output_dir":
        raise ConfigError(f"output_dir={value}: lav inspect writes to another place. Name it with output=FOLDER.")
    if group in _UNUSED:
        raise ConfigError(f"{name}={value}: lav inspect looks at data and has no use for it. Leave it out.")
    if name == "job.count" and job.pictures is None:
        raise ConfigError(f"count={value}: no pictures were asked for. Leave it out, or add pictures={AUGMENTATIONS}.")
    if group == "tiler" and job.pictures != AUGMENTATIONS:
        what = "annotations are shown whole" if job.pictures == ANNOTATIONS else "the report tries every grid itself"
        raise ConfigError(f"{name}={value}: {what}. Leave it out, or ask for pictures={AUGMENTATIONS}.")
    if group == "augment" and job.pictures != AUGMENTATIONS and not (job.report and name in _OF_RESIZING):
        what = "annotations are" if job.pictures == ANNOTATIONS else "what a report looks at is"
        raise ConfigError(f"{name}={value}: {what} not augmented. Leave it out, or ask for pictures={AUGMENTATIONS}.")


def _check_output(job: Config) -> None:
    folder = Path(job.output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output={job.output} is a file. Name a folder.")
    files = [f"{job.pictures}.jpg"] if job.pictures else []
    files += [f"{job.report}.json", f"{job.report}.png"] if job.report else []
    for file in files:
        if (folder / file).exists():
            raise ConfigError(f"output={job.output} already holds {file}. Name another folder, or delete that file.")
    with writing(folder, "output"):
        folder.mkdir(parents=True, exist_ok=True)


def _written(file: Path, pictures: Iterator[Shown], classes: Sequence[str], count: int) -> int:
    from lightning_automl_vision.drawing.files import write_picture
    from lightning_automl_vision.drawing.grid import grid
    from lightning_automl_vision.drawing.sheets import panel

    panels = [panel(shown.pixels, shown.target, classes, shown.captions) for shown in islice(pictures, count)]
    write_picture(file, grid(panels))
    return len(panels)


def _annotated(settings: Settings) -> tuple[tuple[str, ...], Iterator[Shown]]:
    """Images in a random order."""
    from lightning_automl_vision.data.labelled import read_labelled

    data = read_labelled(str(settings.data.training), settings.task.name, settings.data)
    return data.classes, _as_labelled(data.samples, settings)


def _as_labelled(samples: Sequence[Any], settings: Settings) -> Iterator[Shown]:
    import numpy as np

    from lightning_automl_vision.data.images import read_image
    from lightning_automl_vision.samples import Place

    for index in np.random.default_rng(settings.training.random_seed).permutation(len(samples)):
        sample = samples[index]
        pixels = read_image(sample.image, maximum_pixels=settings.data.maximum_image_pixels)
        height, width = pixels.shape[:2]
        target = sample.target.placed(Place(0, 0, width, height))
        yield Shown(pixels=pixels, target=target, captions=[_name(sample.image), f"{width} x {height}"])


def _augmented(settings: Settings) -> tuple[tuple[str, ...], Iterator[Shown]]:
    """With the training's own split, order, transform and seeds, epoch after epoch."""
    from lightning_automl_vision.data.labelled import load_data

    transform = _transform(settings)
    data = load_data(settings.data, settings.task.name, seed=int(settings.training.random_seed or 0))
    cut = None
    if isinstance(settings.augment, ObjectAugmentConfig):
        from lightning_automl_vision.training.preparation import sized
        from lightning_automl_vision.training.tiles import cut_of, tiling_for

        resizing = _resizing(settings, len(data.classes))
        transform = sized(transform, resizing)
        tiling = tiling_for(settings, data.training, resizing)
        cut = cut_of(tiling, settings.tiler, data.training, training=True)
    return data.classes, _drawn(settings, data, transform, cut)


def _transform(settings: Settings) -> Transform:
    from lightning_automl_vision.training.preparation import training_transform

    return training_transform(settings.augment, settings.training)


def _resizing(settings: Settings, num_classes: int) -> Resizing:
    """What only the built network knows; its weights do not matter."""
    from lightning_automl_vision.plugins import model_spec
    from lightning_automl_vision.training.preparation import resizing_for

    LOG.info("Building %s to learn how it wants its pictures", settings.model.name)
    model = model_spec(settings.model.name).build_with(
        without_published(settings.model_parameters),
        task=settings.task.name,
        num_classes=num_classes,
        image_size=settings.training.validation_crop_size,
    )
    return resizing_for(model, settings.augment, settings.training)


def _drawn(settings: Settings, data: Any, transform: Transform, cut: Cut | None) -> Iterator[Shown]:
    from lightning_automl_vision.data.module import ImageDataset, make_loader
    from lightning_automl_vision.data.sampling import EpochSampler
    from lightning_automl_vision.data.window_sampling import WindowSampler

    seed, samples = int(settings.training.random_seed or 0), data.training.samples
    pictures = samples if cut is None else cut.samples
    loader = make_loader(
        samples,
        cut=cut,
        num_classes=len(data.classes),
        truth=_no_truth,
        transform=transform,
        batch_size=1,
        seed=seed,
        shuffle=True,
        balanced=settings.training.balanced_sampling,
        workers=0,
        maximum_pixels=settings.data.maximum_image_pixels,
    )
    sampler, dataset = loader.sampler, loader.dataset
    assert isinstance(sampler, (EpochSampler, WindowSampler))
    assert isinstance(dataset, ImageDataset)
    for epoch in range(settings.training.number_of_epochs):
        sampler.set_epoch(epoch)
        for draw in sampler:
            item = dataset[draw]
            if isinstance(item, VisionError):
                raise item
            picture = item.picture
            captions = [_shown_part(item), *_kinds([_name(pictures[index].image) for index in dataset.partners(draw)])]
            yield Shown(pixels=picture.pixels, target=picture.target, captions=captions)


def _shown_part(item: Item) -> str:
    """The image's name, and which part of it is shown where that is not all."""
    window = item.window
    part = "" if window is None else f" {window.width:g}x{window.height:g}+{window.left:g}+{window.top:g}"
    return f"{_name(item.key)}{part}"


def _no_truth(targets: Sequence[Any]) -> Any:
    raise AssertionError("Batches are not made.")


def _kinds(others: Sequence[str]) -> list[str]:
    """In a line of its own, what else is in the picture."""
    if not others:
        return [""]
    mosaics = {_MOSAIC - 1: "mosaic with ", 2 * _MOSAIC - 1: "two blended mosaics, with "}
    more = f" and {len(others) - _LONGEST_LIST} more" if len(others) > _LONGEST_LIST else ""
    return [mosaics.get(len(others), "blended with ") + ", ".join(others[:_LONGEST_LIST]) + more]


def _name(image: str) -> str:
    from lightning_automl_vision.data.urls import without_query

    return Path(without_query(image)).name
