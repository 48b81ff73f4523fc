"""``lav evaluate``: a trained model judged on any labelled images, with the report that a training writes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError, RequirementError
from lightning_automl_vision.installed import require_torch
from lightning_automl_vision.keys import check_ranges, key
from lightning_automl_vision.log import LOG
from lightning_automl_vision.operating_rules import OperatingPointsConfig, Rule, rule_of
from lightning_automl_vision.requirements import Requirement, check_known, failures, requirements_of
from lightning_automl_vision.result import RESULT, versions
from lightning_automl_vision.run import check_output, finite, write_json
from lightning_automl_vision.settings import JobConfig
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.storage import folder_for_work
from lightning_automl_vision.tables import table
from lightning_automl_vision.task_settings import ObjectTaskConfig, TaskConfig
from lightning_automl_vision.tiler_settings import TilingConfig
from lightning_automl_vision.validated_on import validated_on

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import LabelledImages
    from lightning_automl_vision.model_folder import ModelCard
    from lightning_automl_vision.views import View

_USED = ("job", "task", "checkpoint", "quiet", "data", "hydra", "trainer", "training")
_USED_KEYS = {"trainer": ("accelerator",), "training": ("number_of_workers",)}
# What is not about reading the one set that is given.
OF_TRAINING = (
    *("training", "validation", "test", "validation_data_size", "split", "folds", "group_by"),
    "minimum_images",
)


@dataclass
class Config(JobConfig):
    """Judge a trained model, a run's folder given as ``checkpoint``, on labelled images, read as ``data.*`` says."""

    input: str | None = key(
        None, "The labelled images to judge it on: a file or a folder; by default those that the run was validated on."
    )
    output: str = key("???", "The folder to write: result.json, evaluation.json, predictions.jsonl, per_image.npz.")
    part: str = key(
        "test",
        "Which part is meant where `input` is a data.yaml that lists several.",
        choices=("training", "validation", "test"),
    )
    batch_size: int | None = key(
        None,
        "Images the model sees at once; by default as many as in its training's validation, for the same digits.",
        minimum=1,
    )
    tta: Any = key(
        None,
        "Test-time augmentation: `flip`, or a list such as [flip, scale 0.9, flip scale 1.2]; each is asked beside the"
        " picture as it is.",
    )
    operating_points: OperatingPointsConfig = key(
        OperatingPointsConfig(), "From which score on each class counts, chosen on these images."
    )
    require: str | None = key(
        None, "What the metrics must come to, or the exit code is 7: 'accuracy>=0.6', several with commas."
    )


def run(settings: Settings) -> float | None:
    if not isinstance(settings.job, Config):
        raise ConfigError(f"job={settings.job.name} is not evaluate.")
    document = evaluate(settings, settings.job)
    value: float | None = document["primary_metric"]["value"]
    return value


def evaluate(settings: Settings, job: Config) -> dict[str, Any]:
    """Check, read, judge, write; gives what result.json holds, and raises where less than ``require`` comes out."""
    from lightning_automl_vision.model_folder import read_card

    started = time.monotonic()
    required = requirements_of(job.require)
    if settings.checkpoint is None:
        more = f" lav evaluate judges one model, not {settings.runs}." if settings.runs else ""
        raise ConfigError(f"checkpoint is not given.{more} Name a run's folder: checkpoint=PATH.")
    rule = rule_of(job.operating_points)
    card, found = read_card(settings.checkpoint)
    _check(settings, job, card)
    views = _views(settings, job)
    trained = _trained_with(found, card)
    judged_by = _judged_by(settings, card, trained)
    _check_required(required, settings, judged_by, rule)
    if job.input is None:
        images = validated_on(found.parent, settings, card.task)
        job = replace(job, input=f"what {found.parent} was validated on")
    else:
        images = _read(settings, job, job.input, card)
    LOG.info("%d images in %s; %s for %s in %s", len(images), job.input, card.name, card.task, settings.checkpoint)

    batch_size = _batch_size(job, card, trained)
    with folder_for_work(Path(job.output), "output"):
        if _as_trained(job, card):
            document = _judged(settings, job, images, judged_by, batch_size, _tiler(trained))
        else:
            document = _examined(settings, job, images, judged_by, batch_size, rule, views)
    document["seconds"] = round(time.monotonic() - started, 3)
    short = failures(required, document["metrics"])
    document["requirements"] = {str(one): one.met_by(document["metrics"][one.metric]) for one in required}
    write_json(Path(job.output) / RESULT, document)
    if not settings.quiet:
        print(summary(document))
    if short:
        raise RequirementError(f"{'; '.join(short)}, on {len(images)} images of {job.input}.")
    if rule is not None and not document["operating_points"]:
        raise RequirementError(_nothing_chosen(rule, document))
    return document


def _nothing_chosen(rule: Rule, document: Mapping[str, Any]) -> str:
    from lightning_automl_vision.stored_points import in_words

    return (
        f"operating_points.rule={rule}: no class has a threshold on {document['data']['images']} images of"
        f" {document['input']}: {in_words(document['kept_usual'])}. The model's settings.json stays as it was."
        " Give more labelled images, or choose another rule."
    )


def _judged(
    settings: Settings,
    job: Config,
    images: LabelledImages[Any],
    judged_by: TaskConfig,
    batch_size: int,
    tiler: TilingConfig,
) -> dict[str, Any]:
    require_torch(settings.checkpoint)
    from lightning_automl_vision.training.report import interval_in, write_report
    from lightning_automl_vision.training.scoring import scorer_of, with_bar

    scorer = scorer_of(
        str(settings.checkpoint),
        judged_by=judged_by,
        training=settings.training,
        accelerator=settings.trainer.accelerator,
        batch_size=batch_size,
        tiler=tiler,
        maximum_pixels=settings.data.maximum_image_pixels,
    )
    metrics = scorer.score(images, iter if settings.quiet else with_bar)
    per_image = write_report(Path(job.output), scorer.task, images, {})
    return _document(settings, job, images, judged_by, metrics, interval_in(per_image))


def _views(settings: Settings, job: Config) -> tuple[View, ...]:
    """ConfigError before anything is read."""
    from lightning_automl_vision.predictor import check_views
    from lightning_automl_vision.views import views_of

    views = views_of(job.tta)
    check_views(str(settings.checkpoint), views)
    return views


def _as_trained(job: Config, card: ModelCard) -> bool:
    """Whether it can be judged as its training did, to the last digit: by torch, and with nothing in between."""
    from lightning_automl_vision.operating_points import USE

    plain = job.tta is None and job.operating_points.rule is None
    return plain and not card.settings.get(USE, False) and card.exported is None


def _examined(
    settings: Settings,
    job: Config,
    images: LabelledImages[Any],
    judged_by: TaskConfig,
    batch_size: int,
    rule: Rule | None,
    views: tuple[View, ...],
) -> dict[str, Any]:
    """Judged as users have it, through `load`: views, operating points and every runtime are its business."""
    from lightning_automl_vision.choosing import chosen_points
    from lightning_automl_vision.examination import examination_of, with_bar, write_report
    from lightning_automl_vision.predictor import load
    from lightning_automl_vision.search.comparing import interval_of, resample
    from lightning_automl_vision.stored_points import store
    from lightning_automl_vision.views import told_cost

    predictor = load(
        str(settings.checkpoint),
        above=_floor(settings, judged_by, rule),
        calibrated=rule is None,
        accelerator=settings.trainer.accelerator,
    )
    predictor = replace(predictor, views=views, maximum_pixels=settings.data.maximum_image_pixels)
    if views[1:]:
        LOG.info(told_cost(views, fixed=predictor.card.image_size is not None))
    examination = examination_of(predictor, images, judged_by)
    examination.ask(batch_size, iter if settings.quiet else with_bar)
    metrics, per_image = examination.metrics(), examination.per_image()
    output = Path(job.output)
    write_report(output, examination.document(), examination.answers(), per_image)
    interval = None if per_image is None else list(interval_of(resample([per_image])[0]))
    document = _document(settings, job, images, judged_by, metrics, interval)
    document["tta"] = [str(view) for view in views[1:]]
    document["operating_points_in_use"] = predictor.points is not None
    if rule is not None:
        choice = chosen_points(examination, rule, job.operating_points)
        use, source = job.operating_points.use, str(job.input)
        document["operating_points"] = store(choice, source, output, str(settings.checkpoint), use=use)
        document["kept_usual"], document["falls_short"] = dict(choice.kept_usual), choice.falls_short
    return document


def _floor(settings: Settings, judged_by: TaskConfig, rule: Rule | None) -> float | None:
    """Above which score objects are to be answered with, where it is not what the model's settings say."""
    from lightning_automl_vision.choosing import FLOOR
    from lightning_automl_vision.operating_points import usual_threshold
    from lightning_automl_vision.predictor import open_model

    if not isinstance(judged_by, ObjectTaskConfig):
        return None
    opened = open_model(str(settings.checkpoint))
    asked = [
        floor for floor in (judged_by.metric_score_floor, FLOOR if rule is not None else None) if floor is not None
    ]
    if not asked or (rule is None and opened.points is not None):
        return None
    return min(*asked, usual_threshold(opened.card))


def _document(
    settings: Settings,
    job: Config,
    images: LabelledImages[Any],
    judged_by: TaskConfig,
    metrics: Mapping[str, float],
    interval: list[float] | None,
) -> dict[str, Any]:
    name = judged_by.primary_metric
    document: dict[str, Any] = finite(
        {
            "status": "completed",
            "task": judged_by.name,
            "checkpoint": str(Path(str(settings.checkpoint)).absolute()),
            "input": job.input,
            "primary_metric": {"name": name, "value": metrics.get(name), "interval": interval},
            "metrics": metrics,
            "data": {"images": len(images), "classes": len(images.classes), "dropped": dict(images.dropped)},
            "versions": versions(),
        }
    )
    return document


def _check(settings: Settings, job: Config, card: ModelCard) -> None:
    """Refuse what would be overwritten, and what would not be obeyed."""
    check_output(job.output, RESULT)
    for name, value in given(settings.overrides):
        group, _, below = name.partition(".")
        if group == "data" and job.input is None and below not in OF_TRAINING:
            raise ConfigError(f"{name}={value}: without input the run's own data are read, as its configuration says.")
        if below == "part" and group == "job" and job.input is None:
            raise ConfigError(
                f"part={value}: without input the run's own validation images are read. Leave it out, or name the"
                " data.yaml with input=PATH."
            )
        if name == "task" and value != card.task:
            raise ConfigError(f"task={value}: the task of {settings.checkpoint} is {card.task}. Leave task out.")
        if name == "output_dir":
            raise ConfigError(f"output_dir={value}: lav evaluate writes to another place. Name it with output={value}.")
        if name.startswith("data.") and below in OF_TRAINING:
            raise ConfigError(f"{name}={value}: lav evaluate reads one set, named by input=PATH. Leave it out.")
        if group not in _USED or (group in _USED_KEYS and below not in _USED_KEYS[group]):
            raise ConfigError(
                f"{name}={value}: lav evaluate has no use for it, the model brings all it needs."
                " Leave it out; what may be changed after training stands in the model's settings.json."
            )


def _trained_with(found: Path, card: ModelCard) -> Mapping[str, Any]:
    """The configuration of the run that the model folder lies in; nothing where there is none, or another's."""
    import yaml

    try:
        config = yaml.safe_load((found.parent / "config.yaml").read_text(encoding="utf-8"))
        return config if (config["task"]["name"], config["model"]["name"]) == (card.task, card.name) else {}
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return {}


def _judged_by(settings: Settings, card: ModelCard, trained: Mapping[str, Any]) -> TaskConfig:
    """As in its training, where that is known, and as is given now; metrics at least, where it had none."""
    task = TASKS[card.task]
    kept = {name: value for name, value in trained.get("task", {}).items() if name in task.config.__dataclass_fields__}
    usual = {"name": task.name, "primary_metric": task.primary_metric}
    asked = {name.partition(".")[2] for name, _ in given(settings.overrides) if name.startswith("task.")}
    if asked and settings.task.name != card.task:
        raise ConfigError(f"task.{min(asked)}: the model's task is {card.task}. Say so: task={card.task}.")
    judged = task.config(**{**usual, **kept, **{name: getattr(settings.task, name) for name in asked}})
    check_ranges(judged, "task")
    if judged.primary_metric != task.primary_metric:
        raise ConfigError(
            f"task.primary_metric={judged.primary_metric}: {task.name} is judged by {task.primary_metric}."
            " Leave it out; result.json has every other metric."
        )
    if not judged.lower_is_better:
        return judged
    if "validation_metric_type" in asked:
        raise ConfigError("task.validation_metric_type=none: then nothing would be measured. Choose voc or coco.")
    changes: dict[str, Any] = {"validation_metric_type": "voc"}
    return replace(judged, **changes)


def _check_required(
    required: Sequence[Requirement], settings: Settings, judged_by: TaskConfig, rule: Rule | None
) -> None:
    """It would be a pity to say in the end that there is no such metric."""
    for requirement in required:
        if "loss" in requirement.metric and requirement.metric != "log_loss":
            raise ConfigError(
                f"require={requirement}: lav evaluate computes no losses. Name a metric, such as"
                f" {judged_by.primary_metric}."
            )
    if required:
        from lightning_automl_vision.examination import metric_names
        from lightning_automl_vision.predictor import open_model

        check_known(required, metric_names(open_model(str(settings.checkpoint)), judged_by, calibrated=rule is None))


def _read(settings: Settings, job: Config, source: str, card: ModelCard) -> LabelledImages[Any]:
    """Labels that the model does not know are a fault, as any other: refused, or dropped and counted."""
    from lightning_automl_vision.data.labelled import read_labelled

    images = read_labelled(source, card.task, settings.data, classes=tuple(card.labels), role=job.part)
    unknown = images.dropped.get("unknown label", 0)
    if unknown:
        LOG.warning("%s: %d labels that the model does not know are left out of every figure.", source, unknown)
    return images


def _batch_size(job: Config, card: ModelCard, trained: Mapping[str, Any]) -> int:
    kept = trained.get("training", {}).get("validation_batch_size")
    return job.batch_size or (kept if type(kept) is int and kept > 0 else card.usual_batch_size)


def _tiler(trained: Mapping[str, Any]) -> TilingConfig:
    """How many images' windows are read at a time decides on the batches, and so on the last digits."""
    kept = trained.get("tiler", {}).get("cache_megabytes")
    return TilingConfig(cache_megabytes=kept) if type(kept) is int and kept > 0 else TilingConfig()


def summary(document: Mapping[str, Any]) -> str:
    """Every metric, the primary one first with its interval."""
    primary, data = document["primary_metric"], document["data"]
    interval = primary["interval"]
    known = interval is not None and None not in interval
    rows = [
        (primary["name"], _figure(primary["value"]), f"{interval[0]:.4f} to {interval[1]:.4f}" if known else ""),
        *((name, _figure(value), "") for name, value in document["metrics"].items() if name != primary["name"]),
    ]
    dropped = ", ".join(f"{reason} {count}" for reason, count in data["dropped"].items())
    told = f"{data['images']} images of {document['input']}{f'; dropped: {dropped}' if dropped else ''}"
    points = _points_table(document["operating_points"]) if document.get("operating_points") else ""
    metrics = table(("metric", "value", "95 % interval"), rows)
    return f"{metrics}\n\n{points}{told}; {document['seconds']:.0f} seconds."


def _points_table(classes: Mapping[str, Mapping[str, Any]]) -> str:
    header = ("class", "threshold", "95 % interval", "precision", "recall", "examples")
    rows = [
        (
            name,
            _figure(one["threshold"]),
            " to ".join(map(_figure, one["threshold_interval"] or ())),
            _figure(one["precision"]),
            _figure(one["recall"]),
            str(one["examples"]),
        )
        for name, one in classes.items()
    ]
    return f"{table(header, rows)}\n\n"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
