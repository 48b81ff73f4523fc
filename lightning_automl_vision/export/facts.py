"""What model.json tells of an exported network, under ``exported``, held against what can be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.export.formats import FORMATS

# Whether a value can be, and which ones can.
Rule = tuple[Callable[[Any], bool], str]


def check_facts(file: Path, facts: Any, parameters: Mapping[str, Any]) -> None:
    """ConfigError where ``file`` does not tell what `lav export` writes; ``parameters`` are the model's own."""
    if not isinstance(facts, dict):
        raise ConfigError(
            f"{file}: exported={json.dumps(facts)} must be the object that lav export wrote. Export the run again."
        )
    if facts.get("format") not in [*FORMATS]:
        raise ConfigError(
            f"{file}: no format {facts.get('format')!r} is known, only {', '.join(FORMATS)}."
            " Use the version of lightning-automl-vision that exported it."
        )
    for name, (can_be, allowed) in {**_RULES, **_rules_for(facts, parameters)}.items():
        if name not in facts:
            raise ConfigError(f"{file}: exported.{name} is missing. Copy the folder again, or export the run again.")
        if not can_be(facts[name]):
            raise refused(file, name, facts[name], f"must be {allowed}")


def refused(file: Path, name: str, value: Any, reason: str) -> ConfigError:
    return ConfigError(
        f"{file}: exported.{name}={json.dumps(value)} {reason}. Copy the folder again, or export the run again."
    )


def check_fit(
    file: Path, facts: Mapping[str, Any], *, inside: bool, outputs: Collection[str] | int, inputs: int | None = None
) -> None:
    """ConfigError where ``file`` tells something else of a network than the network itself, which is opened.

    ``inside`` says whether it normalises pictures. Of inputs and outputs without names the number is known.
    """
    normalise = "inside" if inside else "outside"
    if facts["normalise"] != normalise:
        raise refused(file, "normalise", facts["normalise"], f'must be "{normalise}", as the network was exported')
    told: list[str] = facts["outputs"]
    if isinstance(outputs, int):
        _check_number(file, "outputs", told, outputs)
    elif {*told} != {*outputs}:
        raise refused(file, "outputs", told, f"must be {json.dumps([*outputs])}, as the network was exported")
    if inputs is not None:
        _check_number(file, "inputs", facts["inputs"], inputs)


def _check_number(file: Path, name: str, told: Sequence[str], number: int) -> None:
    if len(told) != number:
        raise refused(file, name, told, f"must be as many as the network has: {number}")


def _rules_for(facts: Mapping[str, Any], parameters: Mapping[str, Any]) -> Mapping[str, Rule]:
    files = list(FORMATS[facts["format"]])

    def are_parameters(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() <= parameters.keys()

    return {
        "files": (lambda value: bool(value == files), f"{json.dumps(files)}, beside it in its folder"),
        "fixed": (are_parameters, "an object of the model's parameters"),
        "at_most": (
            lambda value: are_parameters(value) and all(map(_is_number, value.values())),
            "an object of the model's parameters, each with a number",
        ),
        **({"nms": _SIDES} if "nms" in facts else {}),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_names(value: Any) -> bool:
    names = value if isinstance(value, list) and all(isinstance(name, str) for name in value) else []
    return bool(names) and len({*names}) == len(names)


def _are_by_channel(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_size(value: Any) -> bool:
    return value is None or (type(value) is int and value > 0)


_SIDES: Rule = (lambda value: value in ("inside", "outside"), '"inside" or "outside"')
_RULES: Mapping[str, Rule] = {
    "inputs": (lambda value: _are_names(value) and value[0] == "images", 'a list of names, "images" first'),
    "outputs": (_are_names, "a list of different names"),
    "normalise": _SIDES,
    "mean": (_are_by_channel, "a list of three numbers"),
    "std": (lambda value: _are_by_channel(value) and min(value) > 0, "a list of three numbers above 0"),
    "precision": (lambda value: value in (16, 32), "16 or 32"),
    "quantise": (lambda value: value in (None, "int8"), 'null or "int8"'),
    "image_size": (_is_size, "null or a whole number above 0"),
}
