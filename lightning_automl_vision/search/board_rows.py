"""The rows of a leaderboard: what is known of each trial, computed once for a trial that has ended."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.search.comparing import ALPHA
from lightning_automl_vision.search.evidence import OTHERS, Evidence
from lightning_automl_vision.search.progress import Progress, progress_of
from lightning_automl_vision.search.slots import DEFAULT, FOLDER, HASH, MEMORY, OVERRIDES, PLANNED, SECONDS, VALUES
from lightning_automl_vision.search.tickets import REASON, TICKET, TRIES, Tickets

COMPLETE, PRUNED, RUNNING, WAITING, FAILED = "complete", "pruned", "running", "waiting", "failed"
_STATES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: WAITING,
    TrialState.FAIL: FAILED,
}
_ORDER = [*_STATES.values()]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial for whoever reads the leaderboard.

    ``interval`` and ``p_value`` (against the leader) only where its images were kept, else ``missing`` says in a word
    why not; ``tied`` where the p-value cannot tell it from the leader. ``memory`` is the most bytes of any of its
    processes, ``saved_seconds`` what a pruned trial did not take, at its own pace.
    """

    rank: int | None = None
    number: int
    state: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    tied: bool | None = None
    missing: str = ""
    is_default: bool = False
    model: str | None = None
    overrides: Sequence[str] = ()
    epochs: int | None = None
    number_of_epochs: int | None = None
    begun: str | None = None
    seconds: float | None = None
    planned_seconds: float | None = None
    saved_seconds: float | None = None
    memory: int | None = None
    device_memory: int | None = None
    reason: str = ""
    requested: str | None = None
    folder: str | None = None
    command: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}


FIELDS = tuple(one.name for one in fields(Row))


@dataclass(kw_only=True)
class Rows:
    """``arguments`` are those of every trial."""

    folder: Path
    tickets: Tickets
    metric: str
    lower_is_better: bool
    arguments: Sequence[str]
    evidence: Evidence
    program: Sequence[str] = field(default_factory=lambda: program())
    _ended: dict[int, Row] = field(default_factory=dict, init=False)

    def now(self) -> list[Row]:
        """The best first; then what is pruned, running, waiting and failed."""
        trials = self.tickets.last_of_each()
        rows = [self._row(trial) for trial in trials]
        leader = self.leader(trials)
        if leader is not None:
            rows = self._compared(rows, leader.user_attrs[FOLDER])
        order = sorted(rows, key=lambda row: (_ORDER.index(row.state), self._sign(row.value), row.number))
        return _ranked(order)

    def leader(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        return min(complete, key=lambda trial: self._sign(trial.value), default=None)

    def _sign(self, value: float | None) -> float:
        """Less is better; what has no value comes last."""
        if value is None or value != value:
            return math.inf
        return value if self.lower_is_better else -value

    def _compared(self, rows: Sequence[Row], leader: str) -> list[Row]:
        names = [row.folder for row in rows if row.state == COMPLETE and row.folder is not None]
        known, chances = self.evidence.of(names), self.evidence.p_values(names, leader)
        compared = []
        for row in rows:
            if row.state == COMPLETE and row.folder is not None:
                one, chance = known[row.folder], chances[row.folder]
                apart = one.images is not None and row.folder != leader and chance is None
                row = replace(
                    row,
                    interval=one.interval,
                    missing=OTHERS if apart and known[leader].images is not None else one.missing,
                    p_value=chance,
                    tied=None if chance is None else chance >= ALPHA,
                )
            compared.append(row)
        return compared

    def _row(self, trial: FrozenTrial) -> Row:
        if trial.number not in self._ended:
            row = self._new_row(trial)
            if not trial.state.is_finished():
                return row
            self._ended[trial.number] = row
        return self._ended[trial.number]

    def _new_row(self, trial: FrozenTrial) -> Row:
        told, state = trial.user_attrs, _STATES[trial.state]
        folder, overrides = told.get(FOLDER), told.get(OVERRIDES, [])
        progress = None if folder is None else progress_of(self.folder / folder, self.metric)
        progress = progress or Progress()
        return Row(
            number=told[TICKET],
            state=state,
            value=_value(trial, progress),
            is_default=bool(told.get(DEFAULT)),
            model=self._model(json.loads(told.get(VALUES, "{}"))) or progress.model,
            overrides=overrides,
            epochs=None if folder is None else progress.epochs,
            number_of_epochs=progress.number_of_epochs,
            begun=None if trial.datetime_start is None else trial.datetime_start.isoformat(timespec="seconds"),
            seconds=told.get(SECONDS),
            planned_seconds=told.get(PLANNED),
            saved_seconds=_saved(progress, told.get(SECONDS)) if state == PRUNED else None,
            memory=told.get(MEMORY),
            device_memory=progress.device_memory,
            reason=told.get(REASON) or (f"interrupted {told.get(TRIES, 1)} times" if state == FAILED else ""),
            requested=told.get(HASH),
            folder=folder,
            command=shlex.join([*self.program, *self.arguments, *overrides]),
        )

    def _model(self, values: Mapping[str, Any]) -> str | None:
        if "model" in values:
            return str(values["model"])
        chosen = next((text for text in self.arguments if text.startswith("model=")), None)
        return None if chosen is None else chosen.partition("=")[2]


def program() -> list[str]:
    """``lav`` where a shell finds this installation's under that name, else its Python and the module."""
    found = shutil.which("lav")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return ["lav"]
    return [sys.executable, "-m", "lightning_automl_vision"]


def _value(trial: FrozenTrial, progress: Progress) -> float | None:
    """Of the best epoch: what the study keeps of a pruned trial is what it reported last."""
    if trial.state == TrialState.PRUNED:
        return trial.value if progress.best is None else progress.best
    return trial.value if trial.state == TrialState.COMPLETE else None


def _saved(progress: Progress, seconds: float | None) -> float | None:
    """By the time of its evaluations where they say it, else by that of the whole trial."""
    known = progress if progress.seconds is not None else replace(progress, seconds=seconds)
    left = known.seconds_left
    return None if left is None else round(left, 3)


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Places of what has a value; equal values of one state share theirs."""
    ranked: list[Row] = []
    for place, row in enumerate(rows, 1):
        if row.state in (COMPLETE, PRUNED) and row.value is not None and row.value == row.value:
            equal = bool(ranked) and (ranked[-1].state, ranked[-1].value) == (row.state, row.value)
            row = replace(row, rank=ranked[-1].rank if equal else place)
        ranked.append(row)
    return ranked
