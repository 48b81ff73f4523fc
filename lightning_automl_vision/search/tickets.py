"""The trials of a sweep in an Optuna study: each is a ticket that waits, is claimed once, and ends once.

One process uses a study at a time, which a lock on the sweep's folder makes sure of; so whatever is still said to run
when the lock is taken was interrupted, and gets a new ticket with the same parameters.
"""

from __future__ import annotations

import fcntl
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.storage import writing

STUDY, LOCK = "study.db", ".sweep.lock"
Direction = Literal["maximize", "minimize"]
# What a trial's attributes are called.
TICKET, RETRY_OF, TRIES, REASON = "ticket", "retry_of", "tries", "reason"
_SPACE = "space"


@dataclass(frozen=True)
class Tickets:
    """A ticket has a number, and parameters that are fixed for it, if any; what is free is drawn when it is claimed."""

    study: optuna.Study
    most_tries: int = 3

    def issue(self, parameters: Sequence[Mapping[str, Any] | None]) -> None:
        """A ticket for each of these; those whose number was issued before stay as they are."""
        known = {trial.user_attrs[TICKET] for trial in self.trials()}
        for ticket, fixed in enumerate(parameters):
            if ticket not in known:
                self._wait({TICKET: ticket}, fixed)

    def claim(self) -> optuna.Trial | None:
        """The next one that waits, which runs from now on; None if none is left."""
        return self.study.ask() if self.trials(TrialState.WAITING) else None

    @property
    def left(self) -> int:
        """How many are still to be done, those that were interrupted included."""
        return len(self.trials(TrialState.WAITING, TrialState.RUNNING))

    def recover(self, value_of: Callable[[FrozenTrial], float | None]) -> None:
        """What ran when the sweep was ended is complete if it has left a value, else its ticket waits again."""
        for trial in self.trials(TrialState.RUNNING):
            value = value_of(trial)
            if value is None:
                self.put_back(trial)
            else:
                self.study.tell(trial.number, value)

    def put_back(self, trial: optuna.Trial | FrozenTrial) -> None:
        """An interrupted trial fails without a reason, and its ticket waits with the same parameters; not for ever."""
        self.study.tell(trial.number, state=TrialState.FAIL)
        tries = int(trial.user_attrs.get(TRIES, 1))
        if tries < self.most_tries:
            attributes = {TICKET: trial.user_attrs[TICKET], TRIES: tries + 1, RETRY_OF: trial.number}
            self._wait(attributes, trial.params)

    def complete(self, trial: optuna.Trial, value: float) -> None:
        self.study.tell(trial.number, value)

    def prune(self, trial: optuna.Trial, reason: str) -> None:
        """It keeps the last value that it reported."""
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial.number, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Those in one of these states, or all; copies that nothing changes any more."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def last_of_each(self) -> list[FrozenTrial]:
        """For each ticket the trial that was tried last, in the order of tickets."""
        return [trial for _, trial in sorted({int(trial.user_attrs[TICKET]): trial for trial in self.trials()}.items())]

    def _wait(self, attributes: Mapping[str, Any], fixed: Mapping[str, Any] | None) -> None:
        self.study.enqueue_trial(dict(fixed or {}), user_attrs=dict(attributes))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While one process drives the sweep in a folder, no other does."""
    with writing(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"output_dir={folder}: another process drives this sweep. Wait for it, end it, or name another folder."
            ) from None
        yield


def open_study(
    folder: Path,
    *,
    direction: Direction,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    fingerprint: str,
) -> optuna.Study:
    """The study in a folder, a new one if there is none; refuses one of another space or direction."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = folder / STUDY
    with writing(file), closing(sqlite3.connect(file)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for writers, and it stays so
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{file} cannot be read: {error}. Restore it, or name another output_dir.") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            storage=f"sqlite:///{file}",
            sampler=sampler,
            pruner=pruner,
            study_name="sweep",
            direction=direction,
            load_if_exists=True,
        )
    known = study.user_attrs.get(_SPACE)
    if known is None:
        study.set_user_attr(_SPACE, fingerprint)
    elif known != fingerprint or study.direction.name.lower() != direction:
        raise ConfigError(
            f"{file} holds a sweep over another space. Repeat the command that began it, or name another output_dir."
        )
    return study
