"""Distributions that Optuna does not know: a value is made from a parameter that it does know."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_automl_vision.search.distributions import (
    MIN_AND_MAX,
    Distribution,
    Parameter,
    is_number,
)
from lightning_automl_vision.search.steps import Steps, nearest_multiple

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# Normal laws are cut at five standard deviations: beyond them a quantile does not tell its value to the digit.
_TAIL = 2.9e-7
# What is drawn is rounded to so many digits, of the value or of the standard deviation.
_DIGITS = 8
_LARGEST_EXPONENT = 200


@dataclass(frozen=True, kw_only=True)
class QuantizedLogUniform(Distribution):
    """Between two bounds, all orders of magnitude alike, then the nearest multiple of q between them."""

    type: ClassVar[str] = "qloguniform"
    aliases: ClassVar[Mapping[str, str]] = MIN_AND_MAX
    min: float
    max: float
    q: float

    def __post_init__(self) -> None:
        self.read_numbers("min", "max", "q")
        if not 0 < self.min < self.max or self.q <= 0:
            raise self.fault(
                f"needs min above 0 and below max, and q above 0, got min={self.min}, max={self.max} and q={self.q}."
                " Give values such as 1e-4, not exponents."
            )
        if not len(self._steps):
            raise self.fault(f"has no multiple of q={self.q} from min={self.min} to max={self.max}. Make q smaller.")

    @cached_property
    def _steps(self) -> Steps:
        return Steps.multiples(self.min, self.max, self.q)

    def _ask(self, trial: BaseTrial, name: str) -> Parameter:
        return trial.suggest_float(name, self.min, self.max, log=True)

    def value(self, parameter: Any) -> Any:
        return self._steps.nearest(parameter)

    def parameter(self, value: Any) -> Parameter:
        if not is_number(value) or not self.min <= value <= self.max or self._steps.nearest(value) != value:
            raise self.never(value)
        return float(value)

    def middle(self) -> Any:
        return self._steps.nearest(math.sqrt(self.min) * math.sqrt(self.max))


@dataclass(frozen=True, kw_only=True)
class _FromQuantile(Distribution):
    """A value made from a quantile of a normal law, which Optuna draws uniformly."""

    mu: float
    sigma: float

    def __post_init__(self) -> None:
        self.read_numbers("mu", "sigma")
        if self.sigma <= 0:
            raise self.fault(f"needs sigma above 0, got sigma={self.sigma}.")

    @abstractmethod
    def _made(self, normal: float) -> float:
        """The value that is made from a normally distributed number."""

    @abstractmethod
    def _normal(self, value: float) -> float:
        """A normally distributed number from which the value is made; a ValueError if there is none."""

    @cached_property
    def _law(self) -> NormalDist:
        return NormalDist(self.mu, self.sigma)

    def _ask(self, trial: BaseTrial, name: str) -> Parameter:
        return trial.suggest_float(name, _TAIL, 1 - _TAIL)

    def value(self, parameter: Any) -> Any:
        return self._made(self._law.inv_cdf(parameter))

    def parameter(self, value: Any) -> Parameter:
        if not is_number(value) or not math.isfinite(value):
            raise self.never(value)
        try:
            exact = self._law.cdf(self._normal(value))
        except ValueError:
            raise self.never(value) from None
        quantile = min(max(exact, _TAIL), 1 - _TAIL)  # a value at the very end may be rounded to from within
        if self.value(quantile) != value:
            raise self.never(value)
        return quantile

    def middle(self) -> Any:
        return self.value(0.5)


@dataclass(frozen=True, kw_only=True)
class Normal(_FromQuantile):
    """Normal with a mean and a standard deviation."""

    type: ClassVar[str] = "normal"

    def _made(self, normal: float) -> float:
        return round(normal, _DIGITS - math.floor(math.log10(self.sigma)))

    def _normal(self, value: float) -> float:
        return value


@dataclass(frozen=True, kw_only=True)
class LogNormal(_FromQuantile):
    """The logarithm is normal, with a mean and a standard deviation of the logarithm."""

    type: ClassVar[str] = "lognormal"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_exponents(self)

    def _made(self, normal: float) -> float:
        return float(f"{math.exp(normal):.{_DIGITS}g}")

    def _normal(self, value: float) -> float:
        return math.log(value)


@dataclass(frozen=True, kw_only=True)
class QuantizedNormal(_FromQuantile):
    """The nearest multiple of q to a normally distributed number; integers if q is one."""

    type: ClassVar[str] = "qnormal"
    q: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_multiple(self)

    def _made(self, normal: float) -> float:
        return nearest_multiple(normal, self.q)

    def _normal(self, value: float) -> float:
        return value


@dataclass(frozen=True, kw_only=True)
class QuantizedLogNormal(_FromQuantile):
    """The nearest multiple of q, which may be 0, to a number whose logarithm is normal; integers if q is one."""

    type: ClassVar[str] = "qlognormal"
    q: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_multiple(self)
        _check_exponents(self)

    def _made(self, normal: float) -> float:
        return nearest_multiple(math.exp(normal), self.q)

    def _normal(self, value: float) -> float:
        if value:
            return math.log(value)
        share_of_zero = self._law.cdf(math.log(self.q / 2))
        return self._law.inv_cdf(max(share_of_zero / 2, _TAIL))


def _check_multiple(law: QuantizedNormal | QuantizedLogNormal) -> None:
    law.read_numbers("q")
    if law.q <= 0:
        raise law.fault(f"needs q above 0, got q={law.q}.")


def _check_exponents(law: LogNormal | QuantizedLogNormal) -> None:
    if abs(law.mu) + 5 * law.sigma > _LARGEST_EXPONENT:
        raise law.fault(f"takes mu and sigma of the logarithm, got mu={law.mu} and sigma={law.sigma}.")
