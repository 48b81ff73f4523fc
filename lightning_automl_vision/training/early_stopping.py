"""When to stop because the primary metric no longer improves."""

from __future__ import annotations

from dataclasses import dataclass

NAN = float("nan")


def improves(value: float, best: float) -> bool:
    """Strictly, so that the first of equals stays the best; anything is better than a metric that is undefined."""
    return value > best or (best != best and value == value)


@dataclass
class EarlyStopping:
    """Counts evaluations, not epochs.

    The first ``delay`` evaluations are not tracked. The next one is what later ones are held against; after
    ``patience`` evaluations in a row that do not beat the best of those tracked, it is time to stop. The earliest
    end is thus after evaluation ``delay + 1 + patience``.
    """

    patience: int
    delay: int
    evaluations: int = 0
    best: float = NAN
    without_improvement: int = 0

    def observe(self, value: float) -> bool:
        """Whether to stop after this evaluation."""
        self.evaluations += 1
        if self.evaluations <= self.delay:
            return False
        if improves(value, self.best):
            self.best, self.without_improvement = value, 0
        elif self.evaluations > self.delay + 1:
            self.without_improvement += 1
        return self.without_improvement >= self.patience
