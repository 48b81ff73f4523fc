"""What a request asks of explanations: checked in every detail, so that a client's mistake is told at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_automl_vision.serving.refusals import Refused, quoted

MOST_STEPS = 500
"""The ceiling of ``n_steps``: the work of an explanation grows with it, and it has converged long before."""

_ALGORITHMS = ("xrai", "integrated_gradients", "guided_gradcam", "guided_backprop")
_METHODS = ("riemann_middle", "gausslegendre")


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_number_of_steps(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= MOST_STEPS


def _is_one_of(names: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


_PARAMETERS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "xai_algorithm": (_is_one_of(_ALGORITHMS), f"one of {', '.join(_ALGORITHMS)}"),
    "visualizations": (_is_switch, "true or false"),
    "attributions": (_is_switch, "true or false"),
    "confidence_score_threshold_multilabel": (_is_share, "a number in [0, 1]"),
    "n_steps": (_is_number_of_steps, f"an integer in [2, {MOST_STEPS}]"),
    "xrai_fast": (_is_switch, "true or false"),
    "approximation_method": (_is_one_of(_METHODS), f"one of {', '.join(_METHODS)}"),
}


def check_explanation(wanted: Any, parameters: Any, *, place: str, classifies: bool) -> None:
    """Refuse a request whose form is wrong, and one that asks for what there is not."""
    if not _is_switch(wanted):
        raise Refused(400, f"{place}: model_explainability={quoted(wanted)} must be true or false.")
    _check_parameters(parameters, place)
    if wanted and not classifies:
        raise Refused(400, f"{place}: explanations are for classification. Set model_explainability to false.")
    if wanted:
        raise Refused(400, f"{place}: this version gives no explanations. Set model_explainability to false.")


def _check_parameters(parameters: Any, place: str) -> None:
    if not isinstance(parameters, dict):
        raise Refused(400, f"{place}: xai_parameters={quoted(parameters)} must be an object.")
    for name, value in parameters.items():
        if name not in _PARAMETERS:
            raise Refused(400, f"{place}: xai_parameters has no {quoted(name)}. There are {', '.join(_PARAMETERS)}.")
        is_valid, allowed = _PARAMETERS[name]
        if not is_valid(value):
            raise Refused(400, f"{place}: xai_parameters.{name}={quoted(value)} must be {allowed}.")


def parameter_schemas() -> dict[str, Any]:
    """The same in the words of JSON Schema."""
    switch = {"type": "boolean"}
    return {
        "xai_algorithm": {"type": "string", "enum": list(_ALGORITHMS), "default": "xrai"},
        "visualizations": {**switch, "default": True},
        "attributions": {**switch, "default": False},
        "confidence_score_threshold_multilabel": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "n_steps": {"type": "integer", "minimum": 2, "maximum": MOST_STEPS, "default": 50},
        "xrai_fast": {**switch, "default": True},
        "approximation_method": {"type": "string", "enum": list(_METHODS), "default": "riemann_middle"},
    }
