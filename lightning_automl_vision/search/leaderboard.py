"""What a sweep has come to: every trial, how sure its figure is, and whether the best one beats the default."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.errors import DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import write, write_json
from lightning_automl_vision.search.comparing import Resampled, interval_of, p_value, proven_gain, resample
from lightning_automl_vision.search.per_image import PER_IMAGE, load
from lightning_automl_vision.search.sweep import DEFAULT, FOLDER, HASH, OVERRIDES, SECONDS, VALUES
from lightning_automl_vision.search.tickets import REASON, TICKET, Tickets
from lightning_automl_vision.tables import table

BOARD = "leaderboard"
BEST = "best"
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_KEPT = ("model", "result.json", "evaluation.json", "overrides.txt", "config.yaml")
_LONGEST = 60


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial for whoever reads the leaderboard; ``interval`` and ``p_value`` only where its images were kept."""

    number: int
    state: str
    value: float | None
    interval: tuple[float, ...] | None = None
    p_value: float | None = None
    is_default: bool = False
    model: str | None = None
    overrides: Sequence[str] = ()
    seconds: float | None = None
    reason: str = ""
    requested: str | None = None
    command: str = ""


@dataclass(kw_only=True)
class Leaderboard:
    """Written anew whenever something happens; what was computed of a trial that ended is kept."""

    folder: Path
    tickets: Tickets
    metric: str
    lower_is_better: bool
    arguments: Sequence[str]
    verdict: str = ""
    winner: int | None = None
    _known: dict[int, Resampled | None] = field(default_factory=dict, init=False)

    def write(self) -> None:
        rows = self.rows()
        document = {
            "primary_metric": self.metric,
            "winner": self.winner,
            "verdict": self.verdict,
            "trials": [asdict(row) for row in rows],
        }
        write_json(self.folder / f"{BOARD}.json", document)
        write(self.folder / f"{BOARD}.csv", _as_csv(rows))

    def rows(self) -> list[Row]:
        """The best first; then what is pruned, running, waiting and failed."""
        trials = self.tickets.last_of_each()
        leader = self._leader(trials)
        rows = [self._row(trial, leader) for trial in trials]
        order = list(_STATES.values())
        return sorted(rows, key=lambda row: (order.index(row.state), self._rank(row.value), row.number))

    def finish(self) -> FrozenTrial | None:
        """The winner: the leader, unless it cannot be told from the default; ``best/`` is a copy of it."""
        trials = self.tickets.last_of_each()
        leader = self._leader(trials)
        winner = leader
        if leader is not None:
            winner, self.verdict = self._judged(leader, trials)
            self.winner = winner.user_attrs[TICKET]
            self._copy(winner)
        self.write()
        return winner

    def text(self) -> str:
        rows = [
            (
                ">" if row.number == self.winner else "",
                str(row.number),
                row.state,
                "" if row.value is None else f"{row.value:.4f}",
                "" if row.interval is None else f"{row.interval[0]:.3f} to {row.interval[1]:.3f}",
                "" if row.p_value is None else f"{row.p_value:.3f}",
                "" if row.seconds is None else f"{row.seconds:.0f}",
                _short(_words(row)),
            )
            for row in self.rows()
        ]
        header = ("", "trial", "state", self.metric, "95 % interval", "p", "seconds", "")
        return f"{table(header, rows)}\n\n{self.verdict or 'No trial was finished.'} {self.folder / BOARD}.csv has all."

    @property
    def first_failure(self) -> str:
        failed = next((trial for trial in self.tickets.last_of_each() if trial.user_attrs.get(REASON)), None)
        return "" if failed is None else f"Trial {failed.user_attrs[TICKET]}: {failed.user_attrs[REASON]}"

    def _leader(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        return min(complete, key=lambda trial: self._rank(trial.value), default=None)

    def _rank(self, value: float | None) -> float:
        if value is None or value != value:
            return math.inf
        return value if self.lower_is_better else -value

    def _judged(self, leader: FrozenTrial, trials: Sequence[FrozenTrial]) -> tuple[FrozenTrial, str]:
        default = next((trial for trial in trials if trial.user_attrs.get(DEFAULT)), None)
        name = f"Trial {leader.user_attrs[TICKET]} is best, with {self.metric} {leader.value:.4f}"
        if default is None or default.state != TrialState.COMPLETE:
            return leader, f"{name}; there is no default to compare it with."
        if leader.number == default.number:
            return leader, f"Nothing is better than the default, with {self.metric} {leader.value:.4f}."
        others = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.number != default.number]
        images, rival = [self._images(trial) for trial in others], self._images(default)
        if rival is None or any(one is None for one in images):
            return leader, f"{name}; of some trials the images were not kept, so that it cannot be told from luck."
        verdict = proven_gain([one for one in images if one is not None], rival)
        told = f"{name}: {verdict}."
        return (leader, told) if verdict.proven else (default, f"{told} So the default is the result.")

    def _row(self, trial: FrozenTrial, leader: FrozenTrial | None) -> Row:
        values, overrides = json.loads(trial.user_attrs.get(VALUES, "{}")), trial.user_attrs.get(OVERRIDES, [])
        images = self._images(trial)
        rival = None if leader is None or leader.number == trial.number else self._images(leader)
        return Row(
            number=trial.user_attrs[TICKET],
            state=_STATES[trial.state],
            value=trial.value if trial.state.is_finished() and trial.state != TrialState.FAIL else None,
            interval=None if images is None else tuple(interval_of(images)),
            p_value=None if images is None or rival is None else p_value(images, rival),
            is_default=bool(trial.user_attrs.get(DEFAULT)),
            model=self._model(trial, values),
            overrides=overrides,
            seconds=trial.user_attrs.get(SECONDS),
            reason=trial.user_attrs.get(REASON, ""),
            requested=trial.user_attrs.get(HASH),
            command=shlex.join(["lav", *self.arguments, *overrides]),
        )

    def _model(self, trial: FrozenTrial, values: Mapping[str, Any]) -> str | None:
        if "model" in values:
            return str(values["model"])
        chosen = next((text for text in self.arguments if text.startswith("model=")), None)
        return None if chosen is None else chosen.partition("=")[2]

    def _images(self, trial: FrozenTrial) -> Resampled | None:
        """What the trial left of each validation image, resampled once."""
        if trial.state != TrialState.COMPLETE:
            return None
        if trial.number not in self._known:
            file = self.folder / trial.user_attrs[FOLDER] / PER_IMAGE
            try:
                self._known[trial.number] = resample([load(file)])[0]
            except DataError as error:
                LOG.warning("%s", error)
                self._known[trial.number] = None
        return self._known[trial.number]

    def _copy(self, winner: FrozenTrial) -> None:
        """The whole folder or the one that was there before."""
        source, best = self.folder / winner.user_attrs[FOLDER], self.folder / BEST
        part = self.folder / f"{BEST}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in _KEPT:
            if (source / name).is_dir():
                shutil.copytree(source / name, part / name)
            elif (source / name).exists():
                shutil.copy2(source / name, part / name)
        shutil.rmtree(best, ignore_errors=True)
        part.rename(best)


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    names = [name for name in Row.__dataclass_fields__ if name != "interval"]
    writer.writerow([*names[:3], "low", "high", *names[3:]])
    for row in rows:
        values = asdict(row)
        low, high = values.pop("interval") or ("", "")
        cells = [
            "" if value is None else " ".join(value) if isinstance(value, (list, tuple)) else value
            for value in values.values()
        ]
        writer.writerow([*cells[:3], low, high, *cells[3:]])
    return text.getvalue()


def _words(row: Row) -> str:
    what = "the defaults" if row.is_default and not row.overrides else " ".join(row.overrides)
    return f"{row.reason} ({what})" if row.reason and row.state == "complete" else row.reason or what


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
