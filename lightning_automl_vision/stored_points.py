"""Operating points that were chosen, kept beside the report and in the settings of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_automl_vision.choosing import Choice
from lightning_automl_vision.drawing.files import write_picture
from lightning_automl_vision.drawing.operating_chart import chart_of
from lightning_automl_vision.log import LOG
from lightning_automl_vision.model_card import rewrite_settings
from lightning_automl_vision.model_folder import SETTINGS, read_card
from lightning_automl_vision.operating_points import POINTS, USE
from lightning_automl_vision.run import finite, write_json

_MOST_NAMED = 5


def store(choice: Choice, source: str, output: Path, checkpoint: str, *, use: bool) -> dict[str, Any]:
    """What is chosen of each class; where nothing is, the model keeps what it has."""
    told: dict[str, Any] = finite({"input": source, **choice.as_dict()})
    write_json(output / f"{POINTS}.json", told)
    write_picture(output / f"{POINTS}.png", chart_of(choice))
    if choice.chosen:
        _keep(choice, checkpoint, use=use)
    classes: dict[str, Any] = told["classes"]
    return classes


def _keep(choice: Choice, checkpoint: str, *, use: bool) -> None:
    card, found = read_card(checkpoint)
    in_use = use or bool(card.settings.get(USE, False))
    write_json(found / SETTINGS, {**card.settings, USE: in_use, POINTS: choice.as_settings()})
    rewrite_settings(found)
    if choice.kept_usual:
        LOG.warning("The usual threshold is kept for %s.", in_words(choice.kept_usual, most=len(choice.kept_usual)))
    if choice.falls_short:
        LOG.warning(
            "%s does not hold for what is decided, as other classes score better: %s.",
            choice.rule,
            in_words(choice.falls_short, most=len(choice.falls_short)),
        )
    state = "in use" if in_use else f"not in use until {USE} is true"
    count = len(choice.chosen)
    classes = "1 class" if count == 1 else f"{count} classes"
    replaced = _replaced(card.settings.get(POINTS))
    LOG.info("Operating points of %s are in %s, %s%s", classes, found / SETTINGS, state, replaced)


def _replaced(before: Any) -> str:
    if not isinstance(before, dict) or not before.get("thresholds"):
        return ""
    rule, images = before.get("rule", "another rule"), before.get("images")
    chosen = f", chosen on {images} images" if images else ""
    return f"; they replace the {len(before['thresholds'])} for {rule}{chosen}"


def in_words(reasons: Mapping[str, str], most: int = _MOST_NAMED) -> str:
    """Classes, each with its reason."""
    told = ", ".join(f"{name} ({reason})" for name, reason in [*reasons.items()][:most])
    return told if len(reasons) <= most else f"{told} and {len(reasons) - most} more"
