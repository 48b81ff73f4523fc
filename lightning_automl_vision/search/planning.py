"""Which candidates fit into a sweep's time and memory, by what a few real steps of each have taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lightning_automl_vision.search.portfolio import EPOCHS, Candidate

_MINUTE = 60.0
_GIGABYTE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of one training: before its first step, for each epoch with its evaluation; bytes at their highest.

    Of several ``processes`` one was measured, which had its share of the machine; the bytes are of all on it.
    """

    startup: float
    epoch: float
    memory: int
    device_memory: int | None = None
    steps: int = 0
    seconds: float = 0.0
    processes: int = 1

    def of(self, epochs: int) -> float:
        """What a training of so many epochs takes."""
        return self.startup + epochs * self.epoch

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Of a sweep: all its seconds, its trials, how many run at a time, the bytes that are there for all of those."""

    seconds: float
    trials: int
    slots: int = 1
    memory: int | None = None

    @property
    def share(self) -> float:
        """The seconds of each trial, if all take the same."""
        return self.seconds * self.slots / self.trials

    @property
    def memory_share(self) -> float:
        return math.inf if self.memory is None else self.memory / self.slots


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A candidate that was looked at: the epochs it may take, the first one's first, or why it is left out."""

    name: str
    measured: Measured | None = None
    epochs: tuple[int, ...] = ()
    dropped: str = ""

    @property
    def kept(self) -> bool:
        return not self.dropped

    @property
    def seconds(self) -> float | None:
        """What its first trial takes."""
        return self.measured.of(self.epochs[0]) if self.measured is not None and self.epochs else None

    def as_dict(self) -> dict[str, Any]:
        measured = None if self.measured is None else self.measured.as_dict()
        return {"name": self.name, "measured": measured, "epochs": list(self.epochs), "dropped": self.dropped}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        measured = values["measured"]
        return cls(
            name=values["name"],
            measured=None if measured is None else Measured(**measured),
            epochs=tuple(values["epochs"]),
            dropped=values["dropped"],
        )


def chosen(
    candidates: Sequence[Candidate],
    measured: Mapping[str, Measured | str],
    budget: Budget,
    given: Mapping[str, Any],
) -> list[Decision]:
    """For each candidate what becomes of it; a text in place of a measurement says why there is none.

    At least one that could be measured is kept: where nothing fits its share of the time, the quickest, as far as it
    goes.
    """
    decisions = [_decision(candidate, measured[candidate.name], budget, given) for candidate in candidates]
    if any(decision.kept for decision in decisions):
        return decisions
    late = [decision for decision in decisions if decision.measured is not None and _fits(decision.measured, budget)]
    if not late:
        return decisions
    by_name = {candidate.name: candidate for candidate in candidates}
    quickest = min(late, key=lambda decision: _least(decision, by_name[decision.name], given))
    epochs = int(given.get(EPOCHS, by_name[quickest.name].epochs.least))
    return [
        replace(decision, epochs=(epochs,), dropped="") if decision.name == quickest.name else decision
        for decision in decisions
    ]


def _least(decision: Decision, candidate: Candidate, given: Mapping[str, Any]) -> float:
    assert decision.measured is not None
    return decision.measured.of(int(given.get(EPOCHS, candidate.epochs.least)))


def _fits(measured: Measured, budget: Budget) -> bool:
    return measured.memory <= budget.memory_share


def _decision(candidate: Candidate, measured: Measured | str, budget: Budget, given: Mapping[str, Any]) -> Decision:
    if isinstance(measured, str):
        return Decision(name=candidate.name, dropped=measured)
    decision = Decision(name=candidate.name, measured=measured)
    if not _fits(measured, budget):
        return replace(
            decision,
            dropped=f"it needs {measured.memory / _GIGABYTE:.1f} GB, and each of {budget.slots} at a time has"
            f" {budget.memory_share / _GIGABYTE:.1f}",
        )
    possible = math.floor((budget.share - measured.startup) / measured.epoch) if budget.share < math.inf else math.inf
    if EPOCHS in given:
        wanted = int(given[EPOCHS])
        return replace(decision, epochs=(wanted,)) if wanted <= possible else _late(decision, measured, wanted, budget)
    epochs = candidate.epochs
    if possible < epochs.least:
        return _late(decision, measured, epochs.least, budget)
    usual = int(min(epochs.usual, possible))
    return replace(decision, epochs=(usual, epochs.most) if epochs.usual < epochs.most <= possible else (usual,))


def _late(decision: Decision, measured: Measured, epochs: int, budget: Budget) -> Decision:
    return replace(
        decision, dropped=f"{epochs} epochs take {span(measured.of(epochs))}, and its share is {span(budget.share)}"
    )


def fits_default(measured: Measured | str, epochs: int, budget: Budget) -> str | None:
    """Why what the command does by itself cannot be trial 0, or None."""
    if isinstance(measured, str):
        return measured
    if not _fits(measured, budget):
        return f"it needs {measured.memory / _GIGABYTE:.1f} GB"
    if measured.of(epochs) > budget.share:
        return f"{epochs} epochs take {span(measured.of(epochs))}, and its share is {span(budget.share)}"
    return None


def span(seconds: float) -> str:
    """In the largest unit that leaves a figure of one or more."""
    for unit, length in (("days", 1440 * _MINUTE), ("hours", 60 * _MINUTE), ("minutes", _MINUTE)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"
