"""What a sweep has come to: every trial, how sure its figure is, and whether the best one beats the default."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.run import write, write_json
from lightning_automl_vision.search.board_rows import RUNNING, WAITING, Row, Rows
from lightning_automl_vision.search.board_table import as_csv, chosen, table_lines
from lightning_automl_vision.search.comparing import proven_gain
from lightning_automl_vision.search.evidence import Evidence
from lightning_automl_vision.search.final_test import words_of
from lightning_automl_vision.search.progress import progress_of
from lightning_automl_vision.search.savings import planned, saved
from lightning_automl_vision.search.slots import DEFAULT, FOLDER, SECONDS
from lightning_automl_vision.search.tickets import TICKET, Tickets

BOARD = "leaderboard"
BEST = "best"
_KEPT = (
    *("model", "result.json", "evaluation.json", "overrides.txt", "config.yaml", "lock.json", "metrics.jsonl"),
    "mlflow.json",
)
_TWO_CHANCES = "p is of a trial and the best alone; the verdict's allows for the best having been picked."
_MOST_ROWS = 100
_WIDTH = 120  # of text that goes into a file
_MINUTE = 60.0


@dataclass(kw_only=True)
class Leaderboard:
    """Written anew whenever something happens; what was computed of a trial that ended is kept.

    ``drawn`` is called after that, for whoever shows it; ``stands_in`` is why trial 0 is not the command's own default.
    """

    folder: Path
    tickets: Tickets
    metric: str
    lower_is_better: bool
    arguments: Sequence[str]
    stands_in: str = ""
    verdict: str = ""
    winner: int | None = None
    test: Mapping[str, Any] | None = None
    drawn: Callable[[], None] = lambda: None
    _begun: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self._evidence = Evidence(self.folder)
        self._rows = Rows(
            folder=self.folder,
            tickets=self.tickets,
            metric=self.metric,
            lower_is_better=self.lower_is_better,
            arguments=self.arguments,
            evidence=self._evidence,
        )
        self._written: list[Row] = []
        self._epochs_asked: dict[int, int | None] = {}

    def write(self) -> None:
        rows = self._written = self.rows()
        plan = planned(rows)
        document = {
            "primary_metric": self.metric,
            "winner": self.winner,
            "verdict": self.verdict,
            "stands_in": self.stands_in,
            "test": self.test,
            "saved": asdict(saved(rows, self._spent())),
            "planned": None if plan is None else asdict(plan),
            "trials": [row.as_dict() for row in rows],
        }
        write_json(self.folder / f"{BOARD}.json", document)
        write(self.folder / f"{BOARD}.csv", as_csv(rows))
        self.drawn()

    def rows(self) -> list[Row]:
        """The best first; then what is pruned, running, waiting and failed."""
        return self._rows.now()

    def finish(self) -> FrozenTrial | None:
        """The winner: the leader, unless it cannot be told from the default; ``best/`` is a copy of it."""
        trials = self.tickets.last_of_each()
        winner = self._rows.leader(trials)
        if winner is not None:
            winner, self.verdict = self._judged(winner, trials)
            self.verdict += self._others_seen(winner, trials)
            self.winner = winner.user_attrs[TICKET]
            self._copy(winner)
        self.write()
        return winner

    def text(self, width: int | None = None) -> str:
        """As wide as the terminal, if there is one."""
        rows = self.rows()
        shown, others = chosen(rows, _MOST_ROWS, self.winner)
        width = width or _width_of(sys.stdout)
        lines = table_lines(shown, metric=self.metric, winner=self.winner, width=width, all_rows=rows)
        lines += [others] * bool(others)
        plan = planned(rows)
        said = [
            f"{self.verdict or 'No trial was finished.'} {self.folder / BOARD}.csv has all.",
            *([f"Trial 0 stands in for the default: {self.stands_in}."] if self.stands_in else []),
            *([] if self.test is None else [words_of(self.test)]),
            *(["=: cannot be told from the best, by its images."] if any(row.tied for row in rows) else []),
            *([_TWO_CHANCES] if any(row.number == self.winner and row.tied is False for row in rows) else []),
            str(saved(rows, self._spent())),
            *([] if plan is None else [str(plan)]),
        ]
        return "\n".join([*lines, "", *said])

    def lines(self, columns: int, height: int) -> list[str]:
        """What was written last, with the trials that run as their folders tell at this moment."""
        rows = [self._now(row) if row.state == RUNNING else row for row in self._written]
        if not rows:
            return []
        shown, others = chosen(rows, max(height - 3, 0))  # its header has two lines, the summary one
        table = table_lines(shown, metric=self.metric, width=columns, all_rows=rows, live=True) if shown else []
        return [*table, *[others] * bool(shown and others), self._summary(rows)]

    @property
    def first_failure(self) -> str:
        failed = next((row for row in sorted(self.rows(), key=lambda row: row.number) if row.reason), None)
        return "" if failed is None else f"Trial {failed.number}: {failed.reason}"

    def _summary(self, rows: Sequence[Row]) -> str:
        running, waiting = (sum(row.state == state for row in rows) for state in (RUNNING, WAITING))
        minutes = (time.monotonic() - self._begun) / _MINUTE
        ended = len(rows) - running - waiting
        return f"{ended} of {len(rows)} trials have ended, {running} run; {minutes:.1f} minutes"

    def _now(self, row: Row) -> Row:
        if row.folder is None or row.begun is None:
            return row
        asked = self._epochs_asked.get(row.number)
        progress = progress_of(self.folder / row.folder, self.metric, asked)
        self._epochs_asked[row.number] = progress.number_of_epochs
        return replace(
            row,
            value=progress.value,
            epochs=progress.epochs,
            number_of_epochs=progress.number_of_epochs,
            seconds=(datetime.now() - datetime.fromisoformat(row.begun)).total_seconds(),
        )

    def _spent(self) -> float:
        return sum(float(trial.user_attrs.get(SECONDS) or 0) for trial in self.tickets.last_of_each())

    def _others_seen(self, winner: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
        """A remark on the trials that were judged by other images than the winner."""
        own = str(winner.user_attrs[FOLDER])
        ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        others = [trial for trial in ended if self._evidence.saw_others(str(trial.user_attrs[FOLDER]), own)]
        names = ", ".join(str(trial.user_attrs[TICKET]) for trial in others)
        return f" Judged by other images, so that their figures cannot be compared: trial {names}." if others else ""

    def _judged(self, leader: FrozenTrial, trials: Sequence[FrozenTrial]) -> tuple[FrozenTrial, str]:
        """The winner, and which rule made it so."""
        default = next((trial for trial in trials if trial.user_attrs.get(DEFAULT)), None)
        name = f"Trial {leader.user_attrs[TICKET]} is best, with {self.metric} {leader.value:.4f}"
        if default is None:
            return leader, f"{name}; there is no default to compare it with."
        if default.state != TrialState.COMPLETE:
            lost = f"the default, trial {default.user_attrs[TICKET]}, did not finish"
            return leader, f"{name}; {lost}, so that nothing is proven."
        if leader.number == default.number:
            others = sum(trial.state == TrialState.COMPLETE for trial in trials) - 1
            beaten = f"none of {others} others is better" if others else "no other trial was finished"
            return (
                default,
                f"There is no proven gain over the default, with {self.metric} {leader.value:.4f}: {beaten}.",
            )
        return self._against(default, leader, trials, name)

    def _against(
        self, default: FrozenTrial, leader: FrozenTrial, trials: Sequence[FrozenTrial], name: str
    ) -> tuple[FrozenTrial, str]:
        """By the images that they left; without them nothing is proven."""
        folder = {trial.number: str(trial.user_attrs[FOLDER]) for trial in trials if trial.state == TrialState.COMPLETE}
        if not self._evidence.comparable(folder[leader.number], folder[default.number]):
            return default, (
                f"{name}: no proven gain over the default ({default.value:.4f}), as the two were not judged by the same"
                f" images, or did not keep them. So the default is the result; {folder[leader.number]} is the best."
            )
        rivals = [
            trial
            for trial in trials
            if trial.number in folder
            and trial.number != default.number
            and self._evidence.comparable(folder[trial.number], folder[default.number])
        ]
        known = self._evidence.of([*folder.values()])
        images = [known[folder[trial.number]].images for trial in rivals]
        rival = known[folder[default.number]].images
        assert rival is not None
        verdict = proven_gain([one for one in images if one is not None], rival)
        told = f"{name}: {verdict}."
        if not verdict.proven or verdict.best is None:
            return default, f"{told} So the default is the result."
        return rivals[verdict.best], told

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


def _width_of(stream: TextIO) -> int:
    return shutil.get_terminal_size((_WIDTH, 0)).columns if stream.isatty() else _WIDTH
