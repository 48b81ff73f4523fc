"""Tickets of a sweep: none is lost, none is done twice, whatever ends the process that gives them out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.tickets import REASON, RETRY_OF, TICKET, Tickets, locked, open_study


def tickets(folder: Path, *, fingerprint: str = "a space", direction: str = "maximize", seed: int = 1) -> Tickets:
    folder.mkdir(exist_ok=True)
    study = open_study(
        folder,
        direction=direction,  # type: ignore[arg-type]
        sampler=optuna.samplers.RandomSampler(seed=seed),
        pruner=optuna.pruners.NopPruner(),
        fingerprint=fingerprint,
    )
    return Tickets(study)


def nothing(trial: optuna.trial.FrozenTrial) -> None:
    return None


def test_each_ticket_is_issued_once_and_claimed_in_order(tmp_path: Path) -> None:
    given = tickets(tmp_path)
    given.issue([None, {"x": 3}])
    given.issue([None, {"x": 3}, None])
    claimed = []
    while (trial := given.claim()) is not None:
        claimed.append((trial.user_attrs[TICKET], trial.suggest_int("x", 0, 9)))
        given.complete(trial, 0.5)
    assert [ticket for ticket, _ in claimed] == [0, 1, 2]
    assert claimed[1] == (1, 3)
    assert given.claim() is None


def test_an_interrupted_trial_is_tried_again_with_the_same_parameters(tmp_path: Path) -> None:
    first = tickets(tmp_path)
    first.issue([None, None])
    drawn = [
        (trial, trial.suggest_float("rate", 0, 1)) for trial in (first.claim(), first.claim()) if trial is not None
    ]
    first.complete(drawn[0][0], 0.25)
    again = tickets(tmp_path)
    again.recover(nothing)
    trial = again.claim()
    assert trial is not None
    assert (trial.user_attrs[TICKET], trial.user_attrs[RETRY_OF]) == (1, 1)
    assert trial.suggest_float("rate", 0, 1) == drawn[1][1]
    assert again.claim() is None
    assert [one.state for one in again.last_of_each()] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_what_finished_unseen_is_not_done_again(tmp_path: Path) -> None:
    first = tickets(tmp_path)
    first.issue([None, None])
    for _ in range(2):
        assert first.claim() is not None
    again = tickets(tmp_path)
    again.recover(lambda trial: 0.75 if trial.number == 0 else None)
    assert [one.value for one in again.trials(TrialState.COMPLETE)] == [0.75]
    retried = again.claim()
    assert retried is not None
    assert retried.user_attrs[TICKET] == 1


def test_a_ticket_is_not_tried_for_ever(tmp_path: Path) -> None:
    given = tickets(tmp_path)
    given.issue([None])
    tries = 0
    while (trial := given.claim()) is not None:
        given.put_back(trial)
        tries += 1
    assert tries == given.most_tries
    assert {one.state for one in given.trials()} == {TrialState.FAIL}


def test_tries_that_were_ended_for_no_fault_of_the_trial_are_not_counted(tmp_path: Path) -> None:
    given = tickets(tmp_path)
    given.issue([None])
    for _ in range(2 * given.most_tries):
        trial = given.claim()
        assert trial is not None
        given.put_back(trial, blameless=True)
    tries = 0
    while (trial := tickets(tmp_path).claim()) is not None:
        given.put_back(trial)
        tries += 1
    assert tries == given.most_tries


def test_why_a_trial_ended_is_kept(tmp_path: Path) -> None:
    given = tickets(tmp_path)
    given.issue([None, None])
    pruned, failed = given.claim(), given.claim()
    assert pruned is not None
    assert failed is not None
    pruned.report(0.4, 1)
    given.prune(pruned, "too low")
    given.fail(failed, "signal 11")
    kept = tickets(tmp_path).trials()
    assert [(one.state, one.user_attrs[REASON]) for one in kept] == [
        (TrialState.PRUNED, "too low"),
        (TrialState.FAIL, "signal 11"),
    ]
    assert kept[0].value == 0.4


@pytest.mark.parametrize("change", [{"fingerprint": "another"}, {"direction": "minimize"}])
def test_a_study_of_another_space_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    tickets(tmp_path)
    with pytest.raises((ConfigError, optuna.exceptions.DuplicatedStudyError), match="another space"):
        tickets(tmp_path, **change)  # type: ignore[arg-type]


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database at all, but a text that is longer than the header of one" * 9)
    with pytest.raises(ConfigError, match=r"study\.db cannot be read: file is not a database"):
        tickets(tmp_path)


def test_two_processes_never_drive_one_sweep(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another process drives this sweep"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


WORKER = """
import os, sys, time
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from test_tickets import nothing, tickets
from lightning_automl_vision.search.tickets import locked
folder = Path(sys.argv[1])
with locked(folder):
    given = tickets(folder)
    given.issue([None] * 12)
    given.recover(nothing)
    while (trial := given.claim()) is not None:
        trial.suggest_float("x", 0, 1)
        with (folder / "done").open("a") as done:
            given.complete(trial, 1.0)
            if trial.number % 5 == int(sys.argv[2]):
                os.kill(os.getpid(), 9)
"""


def test_no_ticket_is_lost_or_doubled_when_the_process_is_killed(tmp_path: Path) -> None:
    ends = Counter[int]()
    for turn in (1, 3, 0, 9):
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(turn), *sys.path]
        ends[subprocess.run(command, check=False, env=os.environ).returncode] += 1
    assert ends[-signal.SIGKILL] >= 2
    done = tickets(tmp_path).trials(TrialState.COMPLETE)
    assert sorted(trial.user_attrs[TICKET] for trial in done) == list(range(12))
