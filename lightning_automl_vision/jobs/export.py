"""``lav export``: a trained model for another runtime, kept if it is as good there as here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.formats import FORMATS, Options, check_packages, format_named
from lightning_automl_vision.export.packagings import (
    MLFLOW,
    PACKAGINGS,
    MlflowConfig,
    TritonConfig,
    check_keys,
)
from lightning_automl_vision.installed import require_torch
from lightning_automl_vision.jobs.evaluate import OF_TRAINING
from lightning_automl_vision.keys import key
from lightning_automl_vision.log import LOG
from lightning_automl_vision.settings import JobConfig

if TYPE_CHECKING:
    from lightning_automl_vision.model_folder import ModelCard

_USED = ("job", "task", "checkpoint", "quiet", "data", "hydra")


@dataclass
class ParityConfig:
    """Both sides are asked about the same pictures before anything is kept."""

    images: int = key(32, "On how many pictures; 0 compares nothing.", minimum=0)
    tolerance: float = key(
        0.01,
        "By how much the primary metric may drop; without labels, or where no digits were given up, by how much answers"
        " may differ.",
        minimum=0,
        maximum=1,
    )


@dataclass
class Config(JobConfig):
    """Write a trained model, given as ``checkpoint``, for another runtime, and compare what both sides say."""

    format: str = key("onnx", "For which runtime, or in which form.", choices=(*FORMATS, *PACKAGINGS))
    output: str = key("???", "The folder to write; it is a model folder like any other, for `lav predict` too.")
    images: str | None = key(
        None,
        "Labelled images, or pictures, to compare both sides on; by default those that the run was validated on.",
    )
    normalise: str = key(
        "inside",
        "Where pictures are normalised: `inside` the network takes uint8, `outside` it takes normalised numbers.",
        choices=("inside", "outside"),
    )
    precision: int = key(32, "The bits of each weight in the file.", choices=(16, 32))
    quantise: str | None = key(
        None, "Compute in whole numbers of 8 bits (int8), whose ranges are taken from pictures.", choices=("int8",)
    )
    calibration_images: int = key(64, "From how many pictures `quantise` takes the ranges.", minimum=1)
    nms: str | None = key(
        None,
        "yolov5: whether the suppression of boxes is part of the network; by default it is `outside`.",
        choices=("inside", "outside"),
    )
    parity: ParityConfig = key(ParityConfig(), "")
    mlflow: MlflowConfig = key(MlflowConfig(), "")
    triton: TritonConfig = key(TritonConfig(), "")


def run(settings: Settings) -> None:
    if not isinstance(settings.job, Config):
        raise ConfigError(f"job={settings.job.name} is not export.")
    export(settings, settings.job)


def export(settings: Settings, job: Config) -> dict[str, Any] | None:
    """Check, write, compare; RequirementError where the export is not as good, which is then kept aside.

    Gives what parity.json holds, or None where the model is packed for another program.
    """
    from lightning_automl_vision.export.folder import aside_of, check_outside
    from lightning_automl_vision.model_folder import read_card

    if settings.checkpoint is None:
        more = f" lav export takes one model, not {settings.runs}." if settings.runs else ""
        raise ConfigError(f"checkpoint is not given.{more} Name a run's folder: checkpoint=PATH.")
    card, found = read_card(settings.checkpoint)
    keys = dict(given(settings.overrides))
    if (task := keys.get("task", card.task)) != card.task:
        raise ConfigError(f"task={task}: the task of {settings.checkpoint} is {card.task}. Leave task out.")
    copied = job.format == MLFLOW or (job.format in PACKAGINGS and (card.exported or {}).get("format") == "onnx")
    check_keys(job.format, list(keys), copied=copied)
    check_outside(job.output, found)
    if job.format in PACKAGINGS:
        _pack(settings, job, card, found)
        return None
    return _write(settings, job, card, found, aside_of(Path(job.output)))


def _write(settings: Settings, job: Config, card: ModelCard, found: Path, aside: Path) -> dict[str, Any]:
    _check(settings, job, card)
    check_packages(job.format, writing=True)

    from lightning_automl_vision.export.pictures import pictures_for
    from lightning_automl_vision.predictor import open_model

    opened = open_model(found)
    needed = job.parity.images or job.quantise is not None
    pictures = pictures_for(settings, card, found.absolute(), job.images) if needed else None
    LOG.info("%s for %s in %s, to be exported as %s", card.name, card.task, settings.checkpoint, job.format)

    require_torch(settings.checkpoint)
    from lightning_automl_vision.export.cost import summary
    from lightning_automl_vision.export.exporting import Exporting

    document = Exporting(
        opened=opened,
        format=job.format,
        options=Options(normalise=job.normalise, precision=job.precision, quantise=job.quantise, nms=job.nms),
        output=Path(job.output),
        aside=aside,
        pictures=pictures,
        compared=job.parity.images,
        calibrating=job.calibration_images,
        tolerance=job.parity.tolerance,
    ).run()
    if not settings.quiet:
        print(summary(document, job.format, job.output))
    return document


def _pack(settings: Settings, job: Config, card: ModelCard, found: Path) -> None:
    """An MLflow model of the folder as it is, or a repository of Triton, around the network as ONNX."""
    from lightning_automl_vision.export.packing import pack_for_mlflow, pack_for_triton

    def export_onnx(output: Path, aside: Path) -> dict[str, Any]:
        to_pack = replace(job, format="onnx", output=str(output))
        return _write(replace(settings, quiet=True), to_pack, card, found, aside)

    if job.format == MLFLOW:
        told = pack_for_mlflow(card, found, Path(job.output), job.mlflow)
    else:
        told = pack_for_triton(card, found, Path(job.output), job.triton, export_onnx)
    if not settings.quiet:
        print(told)


def _check(settings: Settings, job: Config, card: ModelCard) -> None:
    """Refuse what cannot be, and what would not be obeyed."""
    from lightning_automl_vision.export.folder import check_free
    from lightning_automl_vision.plugins import model_spec

    check_free(job.output)
    if card.exported is not None:
        raise ConfigError(
            f"{settings.checkpoint} was exported already, as {card.exported['format']}. Name the run's folder."
        )
    spec = model_spec(card.name)
    if reason := spec.export_refusal(job.format, card.task):
        raise ConfigError(
            f"format={job.format}: {card.name} cannot be exported so: {reason}. Choose another format or model."
        )
    usual, reads = Options(), format_named(job.format).READS
    for name in ("normalise", "precision", "quantise", "nms"):
        value = getattr(job, name)
        if value == getattr(usual, name):
            continue
        if name not in reads:
            raise ConfigError(f"{name}={value}: the format {job.format} has no use for it. Leave it out.")
        if name == "nms" and name not in spec.export_choices:
            raise ConfigError(f"nms={value}: {card.name} has no such choice. Leave it out.")
    if job.quantise is not None and job.precision == 16:
        raise ConfigError("quantise=int8 and precision=16 are two ways to make a network smaller. Keep one.")
    _check_given(settings, job)


def _check_given(settings: Settings, job: Config) -> None:
    names = {name for name, _ in given(settings.overrides)}
    for name, value in given(settings.overrides):
        group, _, below = name.partition(".")
        if name == "output_dir":
            raise ConfigError(f"output_dir={value}: lav export writes to another place. Name it with output={value}.")
        if group == "data" and (below in OF_TRAINING or not names & {"images", "job.images"}):
            raise ConfigError(
                f"{name}={value}: lav export reads what the run was validated on, or the images that you name with"
                " images=PATH. Leave it out, or name them."
            )
        if group not in _USED or (group == "task" and below):
            raise ConfigError(
                f"{name}={value}: lav export has no use for it, the model brings all it needs."
                " Leave it out; what may be changed after training stands in the model's settings.json."
            )
    if "job.calibration_images" in names and job.quantise is None:
        raise ConfigError("calibration_images: without quantise=int8 nobody reads it. Leave it out.")
    if "job.parity.tolerance" in names and not job.parity.images:
        raise ConfigError("parity.tolerance: with parity.images=0 nothing is compared. Leave it out.")
    if job.images is not None and not job.parity.images and job.quantise is None:
        raise ConfigError(f"images={job.images}: with parity.images=0 nobody reads them. Leave them out.")
