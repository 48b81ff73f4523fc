"""A key's law around the values that did best: wider than these, and never beyond what was searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from lightning_automl_vision.search.distributions import (
    Choice,
    Distribution,
    Integer,
    LogUniform,
    QuantizedUniform,
    RandomInteger,
    Stepped,
    Uniform,
    same,
)
from lightning_automl_vision.search.latent import (
    LogNormal,
    Normal,
    QuantizedLogNormal,
    QuantizedLogUniform,
    QuantizedNormal,
)
from lightning_automl_vision.search.steps import Steps, nearest_multiple

_DIGITS = 4
# A normal law has no bounds; most of what it draws lies within so many standard deviations.
_DEVIATIONS = 2


def narrowed(law: Distribution, values: Sequence[Any], widening: float) -> Distribution:
    """Choices that occur among ``values``; numbers between them, and ``widening`` of the law's range beyond.

    Ranges are in orders of magnitude where the law is logarithmic. A law that draws one value alone is a choice of one.
    """
    if isinstance(law, Choice):
        return replaced(law, [value for value in law.values if any(same(value, own) for own in values)])
    low, high = _Range.of(law).around(values, widening)
    match law:
        case Uniform():  # a logarithmic one stays so
            return type(law)(key=law.key, min=low, max=high)
        case Stepped():
            low, high = law.steps.nearest(low), law.steps.nearest(high)
            return _one(law, low, high) or Stepped(key=law.key, low=low, high=high, step=law.step)
        case Integer() | RandomInteger():
            first, last = int(law.steps.nearest(low)), int(law.steps.nearest(high))
            how: dict[str, Any] = {"step": law.step, "log": law.log} if isinstance(law, Integer) else {}
            return _one(law, first, last) or Integer(key=law.key, low=first, high=last, **how)
        case QuantizedUniform():
            return _quantized(law, law.steps.nearest(low), law.steps.nearest(high), law.q)
        case QuantizedNormal():
            return _quantized(law, nearest_multiple(low, law.q), nearest_multiple(high, law.q), law.q)
        case QuantizedLogUniform() | QuantizedLogNormal():
            return _quantized_logarithmic(law, low, high, law.q, values)
        case Normal():
            return Uniform(key=law.key, min=low, max=high)
        case LogNormal():
            return LogUniform(key=law.key, min=low, max=high)
    raise TypeError(f"no range is known of {law.describe()}")


def replaced(law: Distribution, values: Sequence[Any]) -> Choice:
    return Choice(key=law.key, values=list(values))


def _one(law: Distribution, low: float, high: float) -> Choice | None:
    return replaced(law, [low]) if low == high else None


def _quantized(law: Distribution, low: float, high: float, q: float) -> Distribution:
    return _one(law, low, high) or QuantizedUniform(key=law.key, min=low, max=high, q=q)


def _quantized_logarithmic(
    law: Distribution, low: float, high: float, q: float, values: Sequence[float]
) -> Distribution:
    """Where 0 is among the best, which no logarithm reaches, all multiples are alike."""
    if min(values) <= 0:
        return _quantized(law, 0, max(nearest_multiple(high, q), *values), q)
    steps = Steps.multiples(low, high, q)
    return _one(law, steps.number(0), steps.last) or QuantizedLogUniform(key=law.key, min=low, max=high, q=q)


@dataclass(frozen=True, kw_only=True)
class _Range:
    """``span`` is how far the law reaches; in orders of magnitude where it is ``logarithmic``."""

    low: float
    high: float
    span: float
    logarithmic: bool = False

    @classmethod
    def of(cls, law: Distribution) -> _Range:
        match law:
            case Uniform():
                return cls.between(law.min, law.max, logarithmic=law.logarithmic)
            case QuantizedLogUniform():
                return cls.between(law.min, law.max, logarithmic=True)
            case QuantizedUniform() | RandomInteger() | Stepped():
                return cls.between(law.steps.number(0), law.steps.last)
            case Integer():
                return cls.between(law.low, law.high, logarithmic=law.log)
            case Normal() | QuantizedNormal():
                return cls(low=-math.inf, high=math.inf, span=2 * _DEVIATIONS * law.sigma)
            case LogNormal() | QuantizedLogNormal():
                return cls(low=0, high=math.inf, span=2 * _DEVIATIONS * law.sigma, logarithmic=True)
        raise TypeError(f"no range is known of {law.describe()}")

    @classmethod
    def between(cls, low: float, high: float, *, logarithmic: bool = False) -> _Range:
        span = math.log(high) - math.log(low) if logarithmic else high - low
        return cls(low=low, high=high, span=span, logarithmic=logarithmic)

    def around(self, values: Sequence[float], widening: float) -> tuple[float, float]:
        """Rounded to a few digits, outwards."""
        least, most, more = min(values), max(values), self.span * widening
        if not self.logarithmic:
            low, high = least - more, most + more
        else:
            low, high = (least * math.exp(-more), most * math.exp(more)) if least > 0 else (0.0, most * math.exp(more))
        return max(_rounded(low, ROUND_FLOOR), self.low), min(_rounded(high, ROUND_CEILING), self.high)


def _rounded(number: float, direction: str) -> float:
    exact = Decimal(repr(float(number)))
    if not exact:
        return 0.0
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - _DIGITS + 1), rounding=direction))
