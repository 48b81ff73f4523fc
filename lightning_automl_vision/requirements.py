"""``require='accuracy>=0.6'``: what a model's metrics must come to before it is used."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_SIGNED = ("matthews_correlation", "norm_macro_recall")
_FORM = re.compile(r"\s*([A-Za-z]\w*)\s*(>=|<=|>|<)\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    metric: str
    sign: str
    bound: float

    def met_by(self, value: float | None) -> bool:
        """An undefined value meets nothing."""
        return value is not None and _SIGNS[self.sign](value, self.bound)

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"


def requirements_of(text: str | None) -> list[Requirement]:
    """Several are separated by commas."""
    return [] if text is None else [_requirement(part, text) for part in text.split(",")]


def _requirement(part: str, text: str) -> Requirement:
    found = _FORM.fullmatch(part)
    try:
        if found is not None:
            return Requirement(metric=found[1], sign=found[2], bound=float(found[3]))
    except ValueError:
        pass
    raise ConfigError(
        f"require={text}: {part.strip()!r} is no requirement. Write a metric, one of {', '.join(_SIGNS)}, and a number:"
        " require='accuracy>=0.6'; several are separated by commas."
    )


def check_known(requirements: Sequence[Requirement], metrics: Collection[str]) -> None:
    """ConfigError for a metric that there is not, and for a value that it never has."""
    for requirement in requirements:
        name = requirement.metric
        if name not in metrics:
            known = sorted(metrics)
            raise ConfigError(
                f"require={requirement}: no metric {name!r}.{nearest(name, known)} There are {', '.join(known)}."
            )
        low, high = _range_of(name)
        if not (requirement.met_by(low) or requirement.met_by(high)):
            between = f"at least {low:g}" if high == inf else f"in [{low:g}, {high:g}]"
            raise ConfigError(f"require={requirement}: {name} is always {between}. Write what it can come to.")


def _range_of(metric: str) -> tuple[float, float]:
    """Every bounded metric has its ends within reach."""
    if metric == "log_loss":
        return 0.0, inf
    return (-1.0 if metric in _SIGNED else 0.0), 1.0


def failures(requirements: Sequence[Requirement], metrics: Mapping[str, float | None]) -> list[str]:
    """For each that is not met what was asked for and what there is; ConfigError as above."""
    check_known(requirements, metrics)
    return [
        f"{requirement} is not met: {requirement.metric} is {_shown(metrics[requirement.metric])}"
        for requirement in requirements
        if not requirement.met_by(metrics[requirement.metric])
    ]


def _shown(value: float | None) -> str:
    """In full, for a figure that is short of its bound by less than rounding would not look so."""
    return "undefined" if value is None else repr(value)
