"""The trials of a sweep in an Optuna study: each is a ticket that waits, is claimed once, and ends once.

Where one process does a sweep, which a lock on its folder makes sure of, whatever is still said to run when the lock
is taken was interrupted, and its ticket waits again with the same parameters. Of several, leases.py tells who lives.
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
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.samplers import DRAWS
from lightning_automl_vision.search.storages import DATABASE, LOST, Patience, Place, patient
from lightning_automl_vision.storage import writing

LOCK = ".sweep.lock"
_PATIENCE = 10.0  # seconds with a file of the sweep's own folder, whose disk may be full
Direction = Literal["maximize", "minimize"]
# What a trial's attributes are called.
TICKET, RETRY_OF, TRIES, REASON = "ticket", "retry_of", "tries", "reason"
_SPACE, _FOLDER, _SURPLUS, _BLAMELESS = "space", "output_dir", "surplus", "blameless"


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
        while self.trials(TrialState.WAITING):
            trial = self.study.ask()
            if TICKET in trial.user_attrs and not self._is_double(trial):
                return trial
            self.drop(trial)  # others took the last one at this moment, or it was issued twice
        return None

    def drop(self, trial: optuna.Trial) -> None:
        """From now on it stands for no ticket."""
        trial.set_user_attr(_SURPLUS, True)
        self._end(trial, state=TrialState.FAIL)

    def draw_again(self, trial: optuna.Trial, fixed: Mapping[str, Any] | None = None) -> None:
        """The ticket of a trial that was dropped waits for another draw, or with parameters that are ``fixed``."""
        self._wait({TICKET: trial.user_attrs[TICKET], DRAWS: int(trial.user_attrs.get(DRAWS, 0)) + 1}, fixed)

    def _is_double(self, trial: optuna.Trial) -> bool:
        """Issued twice, as by a process that was killed before it heard that it was done; the first one counts."""
        return any(other.number < trial.number and _turn(other) == _turn(trial) for other in self.trials())

    @property
    def left(self) -> int:
        """How many are still to be done, those that were interrupted included."""
        return len(self.trials(TrialState.WAITING, TrialState.RUNNING))

    def recover(
        self, value_of: Callable[[FrozenTrial], float | None], trials: Sequence[FrozenTrial] | None = None
    ) -> None:
        """What ran when its process was ended is complete if it has left a value, else its ticket waits again.

        It is all that still runs, unless these ``trials`` alone are known to be dead.
        """
        for trial in self.trials(TrialState.RUNNING) if trials is None else trials:
            value = value_of(trial)
            if value is None:
                self.put_back(trial)
            else:
                self._end(trial, value=value)
        self._mend()

    def put_back(self, trial: optuna.Trial | FrozenTrial, *, blameless: bool = False) -> bool:
        """An interrupted trial fails without a reason, and its ticket waits with the same parameters.

        Not for ever, unless it is ``blameless``: it may be what ends the processes that run it. False where another
        process has ended the trial, and it alone puts the ticket back.
        """
        tries = _blamed(trial)
        if tries >= self.most_tries and not blameless:
            return self.fail(trial, f"interrupted {tries} times")
        if not self._end(trial, state=TrialState.FAIL):
            return False
        self._again(self._now(trial), blameless=blameless)
        return True

    def _mend(self) -> None:
        """A ticket whose trial was ended by a process that did not live to put it back waits again."""
        trials = self.trials()
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            interrupted = trial.state == TrialState.FAIL and REASON not in trial.user_attrs
            if interrupted and trial.number not in retried and _blamed(trial) < self.most_tries:
                self._again(trial)

    def _again(self, trial: FrozenTrial, *, blameless: bool = False) -> None:
        tries = int(trial.user_attrs.get(TRIES, 1))
        held = trial.system_attrs.get("fixed_params", {})
        attributes = {
            TICKET: trial.user_attrs[TICKET],
            TRIES: tries + 1,
            RETRY_OF: trial.number,
            _BLAMELESS: int(trial.user_attrs.get(_BLAMELESS, 0)) + blameless,
        }
        self._wait(attributes, {**held, **trial.params})

    def complete(self, trial: optuna.Trial, value: float) -> bool:
        return self._end(trial, value=value)

    def prune(self, trial: optuna.Trial, reason: str) -> bool:
        """Samplers learn from what it reported, and its value is the last of that, as Optuna takes no other."""
        return self._end(trial, reason, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial | FrozenTrial, reason: str) -> bool:
        return self._end(trial, reason, state=TrialState.FAIL)

    def _end(
        self,
        trial: optuna.Trial | FrozenTrial,
        reason: str | None = None,
        *,
        value: float | None = None,
        state: TrialState | None = None,
    ) -> bool:
        """False where another process was faster, whose end stands."""
        try:
            if reason is not None:
                # By the study's storage, as what is known of a frozen trial cannot be changed.
                self.study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            self.study.tell(trial.number, value, state=state)
        except UpdateFinishedTrialError:
            return False
        except ValueError:
            if not self._now(trial).state.is_finished():
                raise
            return False
        return True

    def _now(self, trial: optuna.Trial | FrozenTrial) -> FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Those in one of these states, or all, without what stands for no ticket."""
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if TICKET in trial.user_attrs and _SURPLUS not in trial.user_attrs]

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


def _blamed(trial: optuna.Trial | FrozenTrial) -> int:
    """Its tries, without those that were ended for no fault of its own."""
    return int(trial.user_attrs.get(TRIES, 1)) - int(trial.user_attrs.get(_BLAMELESS, 0))


def _turn(trial: optuna.Trial | FrozenTrial) -> tuple[Any, ...]:
    return trial.user_attrs.get(TICKET), trial.user_attrs.get(TRIES, 1)


def another_sweep(where: str) -> ConfigError:
    return ConfigError(
        f"{where} holds a sweep over another space. Repeat the command that began it, or name another output_dir."
    )


def open_study(
    folder: Path,
    *,
    direction: Direction,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    fingerprint: str,
    place: Place | None = None,
) -> optuna.Study:
    """The study of a sweep, a new one if there is none; refuses one of another space, direction or folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = place or Place(address=f"sqlite:///{folder / DATABASE}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            storage=_storage(place),
            sampler=sampler,
            pruner=pruner,
            study_name=place.name,
            direction=direction,
            load_if_exists=True,
        )
    known = study.user_attrs.get(_SPACE)
    if known is None:
        study.set_user_attr(_SPACE, fingerprint)
        study.set_user_attr(_FOLDER, str(folder))
    elif known != fingerprint or study.direction.name.lower() != direction:
        where = folder / DATABASE if not place.is_shared else place
        raise another_sweep(str(where))
    elif not place.is_in(folder) and study.user_attrs.get(_FOLDER) != str(folder):
        raise ConfigError(
            f"search.study_name={place.name}: the study of this name at {place} is of the sweep in"
            f" output_dir={study.user_attrs.get(_FOLDER)}. Take another name, or leave it out."
        )
    return study


def join_study(
    place: Place, patience: Patience, *, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
) -> optuna.Study:
    """The study that another process has opened; whatever it is asked for, it is asked with patience."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = patient(patience.ask(place.open, begin=False), patience)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.load_study(study_name=place.name, storage=storage, sampler=sampler, pruner=pruner)


def _storage(place: Place) -> BaseStorage:
    if place.is_shared:
        try:
            storage = place.open()
        except LOST as error:
            raise place.unreachable(error) from None
        return patient(storage, Patience(place))
    file = Path(place.url.database or "")
    with writing(file), closing(sqlite3.connect(file)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for writers, and it stays so
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{file} cannot be read: {error}. Restore it, or name another output_dir.") from None
    return patient(place.open(), Patience(place, seconds=_PATIENCE))
