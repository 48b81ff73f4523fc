"""Numbers at equal distances, exact in decimal digits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


@dataclass(frozen=True, kw_only=True)
class Steps:
    """first, first + step, …: so many numbers, integers if ``whole``."""

    first: Decimal
    step: Decimal
    count: int
    whole: bool = False

    @classmethod
    def between(cls, low: float, high: float, step: float, *, whole: bool = False) -> Steps:
        """From low on, up to high at most."""
        first, width = _decimal(low), _decimal(step)
        return cls(first=first, step=width, count=int((_decimal(high) - first) // width) + 1, whole=whole)

    @classmethod
    def multiples(cls, low: float, high: float, step: float) -> Steps:
        """The multiples of step within the bounds; there may be none."""
        width = _decimal(step)
        first = (_decimal(low) / width).to_integral_value(ROUND_CEILING)
        last = (_decimal(high) / width).to_integral_value(ROUND_FLOOR)
        whole = float(step).is_integer()
        return cls(first=first * width + 0, step=width, count=int(last - first) + 1, whole=whole)  # no minus zero

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[float]:
        return (self.number(place) for place in range(self.count))

    def number(self, place: int) -> float:
        exact = self.first + self.step * place
        return int(exact) if self.whole else float(exact)

    def nearest(self, value: float) -> float:
        """The number that is nearest to a value."""
        place = round((value - float(self.first)) / float(self.step))
        return self.number(min(max(place, 0), self.count - 1))

    @property
    def last(self) -> float:
        return self.number(self.count - 1)

    @property
    def middle(self) -> float:
        return self.number((self.count - 1) // 2)

    @property
    def exact(self) -> bool:
        """Whether floating-point numbers hold the ends to the digit, without which Optuna drops the last."""
        return all(_decimal(float(end)) == end for end in (self.first, self.first + self.step * (self.count - 1)))

    def suggest(self, trial: BaseTrial, name: str) -> float:
        if self.whole:
            return trial.suggest_int(name, int(self.number(0)), int(self.last), step=int(self.step))
        return trial.suggest_float(name, self.number(0), self.last, step=float(self.step))


def nearest_multiple(value: float, step: float) -> float:
    """The multiple of a step that is nearest to a value, as a decimal number; an integer if the step is one."""
    exact = _decimal(step) * round(value / step)
    return int(exact) if float(step).is_integer() else float(exact)


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))
