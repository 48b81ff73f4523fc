"""What a free key may be, and how a value of it is drawn by Optuna.

Each value drawn belongs to one parameter of Optuna, and ``parameter`` finds it: what was drawn once can be asked for
again, digit for digit. All bounds are values, never exponents.
"""

from __future__ import annotations

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.overrides import quoted
from lightning_automl_vision.search.steps import Steps

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Parameter = bool | int | float | str | None
# A sweep has at most so many trials; no grid goes through more values of one key.
LARGEST_GRID = 1000
LOW_AND_HIGH: Mapping[str, str] = {"min_value": "low", "max_value": "high", "min": "low", "max": "high"}
MIN_AND_MAX: Mapping[str, str] = {"min_value": "min", "max_value": "max", "low": "min", "high": "max"}


@dataclass(frozen=True, kw_only=True)
class Distribution(ABC):
    """The law of one key; ``key`` is for messages alone, and ``aliases`` are other names of the fields."""

    type: ClassVar[str]
    aliases: ClassVar[Mapping[str, str]] = {}
    key: str = field(compare=False)

    def suggest(self, trial: BaseTrial, name: str) -> Any:
        """A value that the trial's sampler chose under this name, or the one its ticket holds."""
        return self.value(self._ask(trial, name))

    @abstractmethod
    def _ask(self, trial: BaseTrial, name: str) -> Parameter:
        """The parameter under this name."""

    @abstractmethod
    def value(self, parameter: Any) -> Any:
        """What a parameter of Optuna stands for."""

    @abstractmethod
    def parameter(self, value: Any) -> Parameter:
        """The parameter of Optuna that stands for a value; ConfigError for one that is never drawn."""

    @abstractmethod
    def middle(self) -> Any:
        """A value in the middle, or the first of those that have no order."""

    def ends(self) -> Sequence[Any]:
        """The least and the greatest value, of those that have some."""
        return ()

    def grid(self) -> Sequence[Any]:
        """All values in their order; ConfigError where they cannot be counted or are too many."""
        raise self.fault("has no list of values that a grid could go through. Write choice(…) or take another sampler.")

    def contains(self, value: Any) -> bool:
        """Whether the value can be drawn."""
        try:
            self.parameter(value)
        except ConfigError:
            return False
        return True

    def as_dict(self) -> dict[str, Any]:
        """The mapping that it can be read from."""
        return {"type": self.type, **self._arguments()}

    def describe(self) -> str:
        return f"{self.type}({', '.join(f'{name}={quoted(item, name)}' for name, item in self._arguments().items())})"

    def fault(self, text: str) -> ConfigError:
        return ConfigError(f"{self.key}: {self.type} {text}")

    def never(self, value: Any) -> ConfigError:
        """The error for a value that is not among those drawn."""
        return ConfigError(f"{self.key}={value!r} is never drawn by {self.describe()}. Take another value or widen it.")

    def read_numbers(self, *names: str) -> None:
        """Make these fields finite numbers; a text such as 1e-3, which YAML takes for none, becomes one."""
        for name in names:
            object.__setattr__(self, name, self._number(name))

    def read_integers(self, *names: str) -> None:
        for name in names:
            number = self._number(name)
            if not number.is_integer():
                raise self.fault(f"needs an integer, got {name}={number}.")
            object.__setattr__(self, name, int(number))

    def _number(self, name: str) -> float:
        given = getattr(self, name)
        try:
            number = math.nan if isinstance(given, bool) else float(given)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.fault(f"needs a number, got {name}={given!r}.")
        return number

    def _arguments(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "key"}


@dataclass(frozen=True, kw_only=True)
class Choice(Distribution):
    """One of some values, which may be lists and mappings."""

    type: ClassVar[str] = "choice"
    values: Sequence[Any]

    def __post_init__(self) -> None:
        if isinstance(self.values, str) or not isinstance(self.values, Sequence) or not self.values:
            raise self.fault(f"needs a list of values with at least one, got values={self.values!r}.")
        for place, text in enumerate(self._texts):
            if text in self._texts[:place]:
                raise self.fault(f"holds {text} twice. Write each value once.")

    def _ask(self, trial: BaseTrial, name: str) -> Parameter:
        answer: Parameter = trial.suggest_categorical(name, self._parameters)
        return answer

    def value(self, parameter: Any) -> Any:
        return copy.deepcopy(self.values[self._parameters.index(parameter)])

    def parameter(self, value: Any) -> Parameter:
        for own, parameter in zip(self.values, self._parameters, strict=True):
            if same(own, value):
                return parameter
        raise self.never(value)

    def middle(self) -> Any:
        return copy.deepcopy(self.values[0])

    def grid(self) -> Sequence[Any]:
        return copy.deepcopy(list(self.values))

    def describe(self) -> str:
        return f"choice({', '.join(quoted(value, self.key) for value in self.values)})"

    @cached_property
    def _texts(self) -> list[str]:
        try:
            return [as_text(value) for value in self.values]
        except TypeError as error:
            raise self.fault(f"takes plain values only: {error}.") from None

    @cached_property
    def _parameters(self) -> list[Parameter]:
        """Lists and mappings as JSON texts; everything so where Optuna could not tell two apart, as 1 and true."""
        pairs = zip(self.values, self._texts, strict=True)
        plain = [text if isinstance(value, (list, tuple, Mapping)) else value for value, text in pairs]
        return plain if len(set(plain)) == len(plain) else list(self._texts)


@dataclass(frozen=True, kw_only=True)
class Uniform(Distribution):
    """Between two bounds, all alike."""

    type: ClassVar[str] = "uniform"
    aliases: ClassVar[Mapping[str, str]] = MIN_AND_MAX
    logarithmic: ClassVar[bool] = False
    min: float
    max: float

    def __post_init__(self) -> None:
        self.read_numbers("min", "max")
        if not self.min < self.max:
            raise self.fault(f"needs min below max, got min={self.min} and max={self.max}.")
        if self.logarithmic and self.min <= 0:
            raise self.fault(f"needs min above 0, got min={self.min}. Give values such as 1e-4, not exponents.")

    def _ask(self, trial: BaseTrial, name: str) -> Parameter:
        return trial.suggest_float(name, self.min, self.max, log=self.logarithmic)

    def value(self, parameter: Any) -> Any:
        return parameter

    def parameter(self, value: Any) -> Parameter:
        if not is_number(value) or not self.min <= value <= self.max:
            raise self.never(value)
        return float(value)

    def ends(self) -> Sequence[Any]:
        return self.min, self.max

    def middle(self) -> Any:
        exact = math.sqrt(self.min) * math.sqrt(self.max) if self.logarithmic else self.min / 2 + self.max / 2
        return min(max(float(f"{exact:.4g}"), self.min), self.max)


@dataclass(frozen=True, kw_only=True)
class LogUniform(Uniform):
    """Between two bounds, all orders of magnitude alike."""

    type: ClassVar[str] = "loguniform"
    logarithmic: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class _Counted(Distribution):
    """Numbers at equal distances, all alike."""

    @property
    @abstractmethod
    def steps(self) -> Steps:
        """All numbers there are."""

    def _ask(self, trial: BaseTrial, name: str) -> Parameter:
        return self.steps.suggest(trial, name)

    def value(self, parameter: Any) -> Any:
        return self.steps.nearest(parameter)

    def parameter(self, value: Any) -> Parameter:
        if not is_number(value) or not math.isfinite(value) or self.steps.nearest(value) != value:
            raise self.never(value)
        return self.steps.nearest(value)

    def middle(self) -> Any:
        return self.steps.middle

    def ends(self) -> Sequence[Any]:
        return self.steps.number(0), self.steps.last

    def grid(self) -> Sequence[Any]:
        if len(self.steps) > LARGEST_GRID:
            raise self.fault(f"has {len(self.steps)} values, too many for a grid. Write choice(…) with fewer.")
        return list(self.steps)

    def check_digits(self, step: float) -> None:
        if not self.steps.exact:
            raise self.fault(f"counts in decimal numbers, and {step} has too many digits. Round it.")


@dataclass(frozen=True, kw_only=True)
class Stepped(_Counted):
    """low, low + step, … up to high at most."""

    type: ClassVar[str] = "stepped"
    aliases: ClassVar[Mapping[str, str]] = LOW_AND_HIGH
    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        self.read_numbers("low", "high", "step")
        if self.low > self.high or self.step <= 0:
            raise self.fault(
                f"needs low up to high and step above 0, got low={self.low}, high={self.high} and step={self.step}."
            )
        self.check_digits(self.step)

    @cached_property
    def steps(self) -> Steps:
        return Steps.between(self.low, self.high, self.step)


@dataclass(frozen=True, kw_only=True)
class QuantizedUniform(_Counted):
    """The multiples of q between two bounds; integers if q is one."""

    type: ClassVar[str] = "quniform"
    aliases: ClassVar[Mapping[str, str]] = MIN_AND_MAX
    min: float
    max: float
    q: float

    def __post_init__(self) -> None:
        self.read_numbers("min", "max", "q")
        if self.min > self.max or self.q <= 0:
            raise self.fault(f"needs min up to max and q above 0, got min={self.min}, max={self.max} and q={self.q}.")
        if not len(self.steps):
            raise self.fault(f"has no multiple of q={self.q} from min={self.min} to max={self.max}. Make q smaller.")
        self.check_digits(self.q)

    @cached_property
    def steps(self) -> Steps:
        return Steps.multiples(self.min, self.max, self.q)


@dataclass(frozen=True, kw_only=True)
class RandomInteger(_Counted):
    """An integer from 0 to upper - 1."""

    type: ClassVar[str] = "randint"
    upper: int

    def __post_init__(self) -> None:
        self.read_integers("upper")
        if self.upper < 1:
            raise self.fault(f"needs upper of at least 1, got upper={self.upper}. It draws from 0 to upper - 1.")

    @cached_property
    def steps(self) -> Steps:
        return Steps.multiples(0, self.upper - 1, 1)


@dataclass(frozen=True, kw_only=True)
class Integer(_Counted):
    """An integer from low to high, both included; with ``log`` all orders of magnitude alike."""

    type: ClassVar[str] = "int"
    aliases: ClassVar[Mapping[str, str]] = LOW_AND_HIGH
    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        self.read_integers("low", "high", "step")
        if self.low > self.high or self.step < 1:
            raise self.fault(
                f"needs low up to high and step of at least 1, got low={self.low}, high={self.high}, step={self.step}."
            )
        if not isinstance(self.log, bool):
            raise self.fault(f"needs log=true or log=false, got log={self.log!r}.")
        if self.log and (self.low < 1 or self.step > 1):
            raise self.fault(f"with log needs low of at least 1 and step=1, got low={self.low} and step={self.step}.")

    @cached_property
    def steps(self) -> Steps:
        return Steps.between(self.low, self.high, self.step, whole=True)

    def _ask(self, trial: BaseTrial, name: str) -> Parameter:
        return trial.suggest_int(name, self.low, self.high, log=True) if self.log else super()._ask(trial, name)

    def middle(self) -> Any:
        return round(math.sqrt(self.low) * math.sqrt(self.high)) if self.log else super().middle()


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(own: Any, other: Any) -> bool:
    """Whether two values are one: 1 and 1.0 are, 1 and true are not."""
    if is_number(own) and is_number(other):
        return bool(own == other)
    try:
        return as_text(own) == as_text(other)
    except TypeError:
        return False


def as_text(value: Any) -> str:
    """JSON whose keys are sorted, so that equal mappings have one text; a TypeError for what is no plain value."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{json.dumps(name)}: {as_text(item)}" for name, item in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(as_text, value)) + "]"
    return json.dumps(value)
