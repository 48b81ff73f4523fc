"""What an export costs and saves beside the model it was made from, for the terminal and for its README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_automl_vision.export.folder import PARITY
from lightning_automl_vision.model_card import CARD
from lightning_automl_vision.model_folder import MODEL, WEIGHTS
from lightning_automl_vision.predictor import OpenedModel
from lightning_automl_vision.run import write
from lightning_automl_vision.tables import table

Row = tuple[str, str, str]


def sizes(opened: OpenedModel, folder: Path) -> dict[str, int]:
    """The bytes of both networks' files."""
    files = _facts(folder)["files"]
    return {
        "torch": (opened.folder / WEIGHTS).stat().st_size,
        "exported": sum((folder / name).stat().st_size for name in files),
    }


def summary(document: Mapping[str, Any], format: str, output: str) -> str:
    """``document`` is what parity.json holds, or sizes alone."""
    source = f" of {document['source']}" if "source" in document else ""
    return f"{table(('', 'torch', format), [*_rows(document)])}\n\n{output}: {_agreement(document, source)}"


def write_card(opened: OpenedModel, folder: Path, document: Mapping[str, Any]) -> None:
    """The model's own, and what became of it; nothing that says where it was made."""
    facts, known = _facts(folder), opened.folder / CARD
    card = known.read_text(encoding="utf-8") if known.is_file() else f"# {opened.card.name} for {opened.card.task}\n"
    rows = (("", "torch", facts["format"]), ("---",) * 3, *_rows(document))
    lines = [*_told(facts), "", *(f"| {' | '.join(row)} |" for row in rows), "", _sentence(_agreement(document, ""))]
    write(folder / CARD, f"{card}\n## Export\n\n" + "\n".join(lines) + "\n")


def _told(facts: Mapping[str, Any]) -> Iterator[str]:
    kind = f"This folder holds the network as `{facts['format']}`"
    pictures = facts.get("calibrated_on", ())
    if facts["quantise"]:
        yield f"{kind}, in whole numbers of 8 bits; `{MODEL}` names the {len(pictures)} pictures they were fitted to."
    else:
        yield f"{kind}, its weights in {facts['precision']} bits."


def _rows(document: Mapping[str, Any]) -> Iterator[Row]:
    if "metric" in document:
        metric, seconds = document["metric"], document["seconds_per_image"]
        if metric["torch"] is not None:
            yield _row(metric["name"], metric, "{:.4f}")
        yield _row("milliseconds an image", {side: 1000 * value for side, value in seconds.items()}, "{:.1f}")
    yield _row("megabytes", {side: value / 1e6 for side, value in document["bytes"].items()}, "{:.1f}")


def _row(name: str, values: Mapping[str, float], form: str) -> Row:
    return name, form.format(values["torch"]), form.format(values["exported"])


def _agreement(document: Mapping[str, Any], source: str) -> str:
    if "agreement" not in document:
        return "compared with nothing."
    same, count = document["agreement"], document["images"]
    images = f"{count} image{'' if count == 1 else 's'}{source}"
    return f"the answers to {images} agree by {same['mean']:.4f}, the least by {same['lowest']:.4f}; {PARITY} has more."


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _facts(folder: Path) -> Mapping[str, Any]:
    facts: Mapping[str, Any] = json.loads((folder / MODEL).read_text(encoding="utf-8"))["exported"]
    return facts
