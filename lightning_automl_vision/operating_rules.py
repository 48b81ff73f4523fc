"""``operating_points.rule``: what the thresholds of classes are chosen for; imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import key

_BOUND = re.compile(r"(precision|recall)\s*>=\s*([\d.]+)")
KINDS = "max_f1, 'precision>=0.9', 'recall>=0.95' or cost"


@dataclass
class OperatingPointsConfig:
    """From which score on each class counts as found, chosen on the given images and kept with the model."""

    rule: str | None = key(
        None,
        "What thresholds of classes are chosen for: `max_f1`, `precision>=0.9` (of those the most recall),"
        " `recall>=0.95` (of those the most precision) or `cost`; without it none are chosen.",
    )
    false_positive_cost: float = key(1.0, "What `cost` counts for each that is found and wrong.", minimum=0)
    false_negative_cost: float = key(1.0, "What `cost` counts for each that is true and not found.", minimum=0)
    minimum_examples: int = key(
        10, "A class with fewer examples among the given images keeps the usual threshold.", minimum=1
    )
    calibrate: bool = key(True, "Also fit what makes scores shares: of what scores 0.8, four of five are right.")
    use: bool = key(False, "Switch them on in the model's settings.json: `use_operating_points`.")


@dataclass(frozen=True, kw_only=True)
class Rule:
    kind: str
    at_least: float = 0.0
    false_positive: float = 1.0
    false_negative: float = 1.0

    def __str__(self) -> str:
        if self.kind == "cost":
            return f"cost of {self.false_positive:g} for each wrong one, {self.false_negative:g} for each missed one"
        return f"{self.kind}>={self.at_least:g}" if self.kind in ("precision", "recall") else self.kind


def rule_of(config: OperatingPointsConfig) -> Rule | None:
    """ConfigError for what is no rule, and for keys that the rule does not read."""
    costs = config.false_positive_cost, config.false_negative_cost
    if config.rule != "cost" and costs != (1.0, 1.0):
        raise ConfigError(
            f"operating_points.false_positive_cost={costs[0]:g}, false_negative_cost={costs[1]:g}: only"
            " operating_points.rule=cost counts them. Choose it, or leave them out."
        )
    if config.rule is None:
        if config != OperatingPointsConfig():
            raise ConfigError(f"operating_points.rule is not given, and the other keys need it. Choose {KINDS}.")
        return None
    if config.rule == "max_f1":
        return Rule(kind="max_f1")
    if config.rule == "cost":
        if not sum(costs):
            raise ConfigError("operating_points: both costs are 0, so that every threshold is as good. Raise one.")
        return Rule(kind="cost", false_positive=costs[0], false_negative=costs[1])
    found = _BOUND.fullmatch(config.rule.strip())
    bound = _number(found[2]) if found else 0.0
    if not found or not 0 < bound <= 1:
        raise ConfigError(
            f"operating_points.rule={config.rule}: it must be {KINDS}; a bound is more than 0 and at most 1."
        )
    return Rule(kind=found[1], at_least=bound)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
