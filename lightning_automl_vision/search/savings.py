"""What a sweep took, what ending trials early saved, and what was planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_automl_vision.search.board_rows import PRUNED, Row

_MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Saved:
    """``share`` is that of the time not taken in all that would have been; earlier attempts of a trial count as spent.

    ``seconds`` are what pruned trials would have taken to the end, each at its own pace; ``unknown`` is how many of
    them ended before there was one.
    """

    trials: int
    unknown: int
    epochs: int
    seconds: float
    spent_seconds: float
    share: float | None

    def __str__(self) -> str:
        if not self.trials:
            return f"Trials took {_time(self.spent_seconds)}; none was ended early."
        unknown = f" (that of {self.unknown} is not known)" if self.unknown else ""
        share = "" if self.share is None else f", {self.share:.0%} of what all of it would have taken"
        return (
            f"Trials took {_time(self.spent_seconds)}; ending {self.trials} early saved {self.epochs} epochs, about"
            f" {_time(self.seconds)}{unknown}{share}."
        )


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Of the trials that have ended and had a plan."""

    trials: int
    planned_seconds: float
    seconds: float

    def __str__(self) -> str:
        return f"For {self.trials} trials {_time(self.planned_seconds)} were planned; they took {_time(self.seconds)}."


def saved(rows: Sequence[Row], spent: float) -> Saved:
    """``spent`` are the seconds of all trials and attempts together."""
    pruned = [row for row in rows if row.state == PRUNED]
    known = [row for row in pruned if row.saved_seconds is not None]
    seconds = sum(row.saved_seconds or 0.0 for row in known)
    return Saved(
        trials=len(pruned),
        unknown=len(pruned) - len(known),
        epochs=sum(max((row.number_of_epochs or 0) - (row.epochs or 0), 0) for row in known),
        seconds=round(seconds, 3),
        spent_seconds=round(spent, 3),
        share=round(seconds / (spent + seconds), 4) if spent + seconds else None,
    )


def planned(rows: Sequence[Row]) -> Planned | None:
    """None where nothing was planned."""
    both = [(row.planned_seconds, row.seconds) for row in rows if row.planned_seconds is not None]
    ended = [(plan, seconds) for plan, seconds in both if seconds is not None]
    if not ended:
        return None
    return Planned(
        trials=len(ended),
        planned_seconds=round(sum(plan for plan, _ in ended), 3),
        seconds=round(sum(seconds for _, seconds in ended), 3),
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 2 * _MINUTE else f"{seconds / _MINUTE:.1f} min"
