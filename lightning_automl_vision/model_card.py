"""``model/README.md``: what a model is, for whoever finds its folder; every figure comes from the files of its run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import yaml

from lightning_automl_vision.errors import VisionError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.model_folder import LABELS, MODEL, SETTINGS
from lightning_automl_vision.operating_points import POINTS
from lightning_automl_vision.plugins import model_specs
from lightning_automl_vision.result import RESULT
from lightning_automl_vision.run import write
from lightning_automl_vision.search.comparing import interval_of, resample
from lightning_automl_vision.search.per_image import PER_IMAGE, load

CARD = "README.md"
_SETTINGS = "## Settings"
_MOST_CLASSES = 100
_OF_A_CLASS = ("support", "objects", "precision", "recall", "f1", "average_precision")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The files of a run, as far as they are there; an empty one says nothing."""

    model: Mapping[str, Any]
    labels: Sequence[str]
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    lock: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    config: Mapping[str, Any]
    test: Mapping[str, Any]
    interval: Sequence[float] | None


def write_card(run: Path) -> None:
    """After everything else that a run writes, for nothing that happens here costs a run its end."""
    try:
        if (run / "model" / MODEL).is_file():
            write(run / "model" / CARD, card_of(facts_of(run)))
    except (VisionError, OSError, MemoryError) as error:
        LOG.warning("There is no %s/model/%s: %s", run, CARD, error)


def rewrite_settings(model: Path) -> None:
    """The section on settings in the card that lies in a model folder; all else in it stays."""
    file = model / CARD
    try:
        before, title, after = file.read_text(encoding="utf-8").partition(f"\n{_SETTINGS}\n")
        _, mark, rest = after.partition("\n## ")
        if title:
            write(file, f"{before}\n{_section(_SETTINGS, _settings(_read(model / SETTINGS)))}{mark}{rest}")
    except FileNotFoundError:
        return
    except (VisionError, OSError, ValueError) as error:
        LOG.warning("%s is as it was: %s", file, error)


def facts_of(run: Path) -> Facts:
    """Of a run, a trial, or the copy of a sweep's winner, whose images' figures stay with the trial."""
    model, test = run / "model", _read(run / "test.json")
    per_image = (run / PER_IMAGE, run.parent / str(test.get("trial", "")) / PER_IMAGE)
    return Facts(
        model=_read(model / MODEL),
        labels=json.loads((model / LABELS).read_text(encoding="utf-8")),
        settings=_read(model / SETTINGS),
        result=_read(run / RESULT),
        lock=_read(run / "lock.json"),
        evaluation=_read(run / "evaluation.json"),
        config=_read(run / "config.yaml"),
        test=test,
        interval=next((_interval(file) for file in per_image if file.is_file()), None),
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _interval(file: Path) -> Sequence[float] | None:
    try:
        return list(interval_of(resample([load(file)])[0]))
    except (VisionError, ValueError):
        return None


def card_of(facts: Facts) -> str:
    """Markdown; a section of which no file says anything is left out."""
    task, name = facts.model["task"], facts.model["model"]["name"]
    parts = {
        f"# {name} for {task}": _introduction(facts),
        "## Use": _use(task),
        "## Metrics": _metrics(facts),
        "## Classes": _classes(facts),
        "## Data": _data(facts),
        _SETTINGS: _settings(facts.settings),
        "## Licences": _licences(facts, name),
        "## Versions": _versions(facts),
    }
    return "\n".join(filter(None, map(_section, parts, parts.values())))


def _section(title: str, lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return f"{title}\n\n{text}\n" if text else ""


def _introduction(facts: Facts) -> Iterator[str]:
    parameters = facts.model["model"]["parameters"]
    kinds = ("architecture", "model_size", "backbone")
    told = "".join(f", {kind}={parameters[kind]}" for kind in kinds if parameters.get(kind))
    size = facts.model.get("image_size")
    pictures = f", for pictures of {size} x {size} pixels" if size else ""
    yield f"A model of {len(facts.labels)} classes{told}{pictures}."
    result = facts.result
    if result:
        epoch = (result.get("primary_metric") or {}).get("epoch")
        folds = (result.get("folds") or {}).get("count", 0)
        best = f"the best was the {_ordinal(epoch)}" if epoch and not folds else ""
        of_folds = f"in {folds} folds, of which this is the model that validated best" if folds else ""
        told = "".join(f"; {part}" for part in (best, of_folds) if part)
        yield f"Its training ended as `{result['status']}` after {result['epochs']} epochs{told}."


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _use(task: str) -> Iterator[str]:
    shown = "p.label, p.score" if task == "image_classification" else "p.as_dict()"
    yield from (
        "In this folder, with lightning-automl-vision installed:",
        "",
        "```",
        "lav predict . input=/path/of/pictures output=/path/of/answers draw=true",
        "lav evaluate . input=/path/of/labelled.jsonl output=/path/of/report",
        "```",
        "",
        "```python",
        "import lightning_automl_vision as lav",
        "",
        'predictor = lav.load(".")  # or wherever this folder lies',
        'for p in predictor.predict(["photo.jpg"]):',
        f"    print({shown})",
        "```",
    )


def _metrics(facts: Facts) -> Iterator[str]:
    result = facts.result
    metrics = result.get("metrics") or {}
    if not metrics:
        return
    primary = result["primary_metric"]["name"]
    images = facts.result["data"]["validation"]
    yield f"On the {images} validation images, which also picked the epoch; `{primary}` is the primary metric."
    interval = _between(facts.interval)
    if interval:
        yield f"Its 95 % interval, by drawing these images again, is {interval}."
    test = result.get("test_metrics") or (facts.test.get("metrics") or {})
    count = (facts.test.get("data") or {}).get("images") or result["data"].get("test")
    if test:
        between = _between((facts.test.get("primary_metric") or {}).get("interval"))
        yield (
            f"The {count} test images selected nothing"
            f"{f'; the interval of {primary} on them is {between}' if between else ''}."
        )
    yield ""
    names = [primary, *(name for name in metrics if name != primary)]
    measured = {"validation": metrics, **({"test": test} if test else {})}
    rows = ((f"`{name}`", *(_figure(values.get(name)) for values in measured.values())) for name in names)
    yield from _table(("metric", *measured), rows)


def _classes(facts: Facts) -> Iterator[str]:
    rows = facts.evaluation.get("report") or facts.evaluation.get("per_label_metrics") or {}
    figures = [name for name in _OF_A_CLASS if any(name in row for row in rows.values())]
    shown = facts.labels[:_MOST_CLASSES]
    if rows:
        yield "On the validation images:"
        yield ""
    header = ["class", *(name.replace("_", " ").replace("support", "images") for name in figures)]
    cells = ((_plain(name), *(_figure(rows.get(name, {}).get(key)) for key in figures)) for name in shown)
    yield from _table(header, cells)
    if len(facts.labels) > len(shown):
        yield ""
        yield f"And {len(facts.labels) - len(shown)} more, in `{LABELS}`."


def _data(facts: Facts) -> Iterator[str]:
    counts = facts.result.get("data") or {}
    if not counts:
        return
    manifests = facts.lock.get("data") or {}
    rows = [
        (role, str(counts[role]), *(f"`{manifests[role][key]}`" if role in manifests else "" for key in _HASHES))
        for role in ("training", "validation", "test")
        if counts.get(role)
    ]
    yield from _table(("part", "images", *(f"hash of {key}" for key in _HASHES)), rows)
    dropped = ", ".join(f"{reason} {count}" for reason, count in (counts.get("dropped") or {}).items())
    data = facts.config.get("data") or {}
    split = [
        f"Dropped as faulty: {dropped}." if dropped else "",
        f"The validation images were held out of the training set: a share of {data['validation_data_size']:g},"
        f" `{data.get('split')}`, with the seed {facts.result.get('random_seed')}."
        if data and not data.get("validation") and not data.get("folds")
        else "",
    ]
    if any(split):
        yield ""
        yield from (line for line in split if line)


_HASHES = ("names", "labels", "pictures")


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    yield f"`{SETTINGS}` may be edited; the documents of the package say what each means."
    yield ""
    plain = ((f"`{name}`", f"`{json.dumps(value)}`") for name, value in settings.items() if name != POINTS)
    yield from _table(("setting", "value"), plain)
    points = settings.get(POINTS)
    if points:
        yield ""
        yield f"Operating points for {points.get('rule')}, chosen on {points.get('images')} images:"
        yield ""
        intervals = points.get("intervals") or {}
        rows = (
            (_plain(name), _figure(value), _between(intervals.get(name)) or "")
            for name, value in (points.get("thresholds") or {}).items()
        )
        yield from _table(("class", "threshold", "95 % interval"), rows)


def _licences(facts: Facts, name: str) -> Iterator[str]:
    spec = model_specs().get(name)
    code = metadata("lightning-automl-vision")
    yield f"The code that trained it and runs it: {code['License-Expression']}."
    yield ""
    model, training = facts.config.get("model") or {}, facts.config.get("training") or {}
    if not facts.config:
        yield "What its weights started from is not known: the run's config.yaml is not there."
    elif training.get("checkpoint_run_id") or training.get("checkpoint_path"):
        yield "Its weights started from an earlier model, whose licence holds for what was taken over."
    elif model.get("weights"):
        yield f"Its weights started from a file, `{Path(str(model['weights'])).name}`, whose licence holds for them."
    elif model.get("pretrained"):
        published = "unknown" if spec is None else spec.weights
        licence = "unknown" if spec is None else spec.licence
        yield f"Its weights started from published ones: {published}; licence {licence}."
    else:
        yield "Its weights started from random numbers: nobody else's licence holds for them, but for that of the data."


def _versions(facts: Facts) -> Iterator[str]:
    versions = facts.lock.get("versions") or facts.model.get("versions") or {}
    yield ", ".join(f"{name} {version}" for name, version in versions.items())
    if facts.lock and (seed := facts.result.get("random_seed")):
        yield ""
        yield f"Seed {seed}. Where the run's folder is there, `lav reproduce RUN` trains it again and compares."


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _plain(name: str) -> str:
    """A class, whatever letters it has, as Markdown shows it and not as it reads it."""
    one_line = " ".join(name.split())
    return "".join(f"\\{letter}" if letter in "\\|`*_[]<>#&" else letter for letter in one_line) or '""'


def _figure(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _between(interval: Sequence[float | None] | None) -> str | None:
    if not interval or None in interval or any(value != value for value in interval):
        return None
    return " to ".join(map(_figure, interval))
