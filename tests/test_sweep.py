"""A sweep keeps its slots full and its promises: what fails, hangs or is killed costs its own trial alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from lightning_automl_vision.errors import ConfigError, StorageError
from lightning_automl_vision.search.leaderboard import Leaderboard
from lightning_automl_vision.search.policies import policy_of
from lightning_automl_vision.search.samplers import sampler_of
from lightning_automl_vision.search.slots import FOLDER, HASH, SECONDS, USED, VALUES, Limits, threads_for
from lightning_automl_vision.search.spaces import Spaces, spaces_of
from lightning_automl_vision.search.sweep import Sweep
from lightning_automl_vision.search.tickets import REASON, TICKET, Tickets, open_study

RATES = {"training.learning_rate": {"type": "uniform", "min_value": 0.1, "max_value": 0.2}}


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


def sweep(folder: Path, spaces: dict[str, Any], *, trials: int = 4, policy: Any = None, **options: Any) -> Sweep:
    known: Spaces = spaces_of(spaces)
    limits = {"slots": 2, "trial_seconds": 60.0, **options.pop("limits", {})}
    study = open_study(
        folder,
        direction="maximize",
        sampler=sampler_of("random", 3),
        pruner=policy_of(policy, "maximize"),
        fingerprint=known.fingerprint(),
    )
    tickets = Tickets(study)
    grid = options.pop("grid", False)
    tickets.issue(known.grid() if grid else [None] * trials)
    return Sweep(
        tickets=tickets,
        spaces=known,
        arguments=(),
        folder=folder,
        metric="accuracy",
        lower_is_better=False,
        limits=Limits(**limits),
        module="fake_training",
        **options,
    )


def states(asked: Sweep) -> list[str]:
    return [trial.state.name for trial in asked.tickets.last_of_each()]


def reasons(asked: Sweep) -> list[str]:
    return [trial.user_attrs.get(REASON, "") for trial in asked.tickets.last_of_each()]


def test_every_ticket_is_done_with_the_values_that_were_drawn(tmp_path: Path) -> None:
    asked = sweep(tmp_path, {"all": RATES})
    asked.run()
    assert states(asked) == ["COMPLETE"] * 4
    for trial in asked.tickets.last_of_each():
        used = json.loads((tmp_path / trial.user_attrs[FOLDER] / "config.yaml").read_text())
        rate = trial.params["training.learning_rate"]
        assert used["training"]["learning_rate"] == rate
        assert trial.value == pytest.approx(4 * rate)
        assert trial.user_attrs[SECONDS] > 0


def test_a_grid_is_done_once_and_whole(tmp_path: Path) -> None:
    spaces = {"a": {"training.learning_rate": "0.1,0.2", "data.format": "jsonl,coco"}}
    asked = sweep(tmp_path, spaces, grid=True)
    asked.run()
    done = [tuple(trial.params.values()) for trial in asked.tickets.last_of_each()]
    assert done == [(0.1, "jsonl"), (0.1, "coco"), (0.2, "jsonl"), (0.2, "coco")]


def test_the_first_ticket_is_the_default_where_there_is_one(tmp_path: Path) -> None:
    asked = sweep(tmp_path, {"all": RATES}, with_default=True, trials=2)
    asked.run()
    default, other = asked.tickets.last_of_each()
    assert (default.params, default.value) == ({}, pytest.approx(0.04))
    assert "training.learning_rate" in other.params


def test_a_full_disk_ends_the_sweep_and_costs_no_ticket(tmp_path: Path) -> None:
    spaces = {"a": {"training.learning_rate": "0.1,0.2", "data.format": "good,full"}}
    for _ in range(4):  # as often as one likes
        with pytest.raises(StorageError, match=r"no space left on device\. What has ended is kept"):
            sweep(tmp_path, spaces, grid=True, limits={"slots": 1}).run()
    (tmp_path / "room").touch()
    asked = sweep(tmp_path, spaces, grid=True)
    asked.run()
    assert states(asked) == ["COMPLETE"] * 4


def test_what_was_drawn_before_is_drawn_again_and_a_space_ends_when_all_of_it_was(tmp_path: Path) -> None:
    spaces = {"a": {"training.learning_rate": "0.1,0.2,0.3", "data.format": "good"}}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    first = sweep(tmp_path / "whole", spaces, trials=6)
    first.run()
    rates = [trial.params["training.learning_rate"] for trial in first.tickets.last_of_each()]
    assert sorted(rates) == [0.1, 0.2, 0.3]
    sweep(tmp_path / "parts", spaces, trials=2).run()
    broken = sweep(tmp_path / "parts", spaces, trials=6)
    claimed = broken.tickets.claim()
    assert claimed is not None
    broken._drawn(claimed)
    broken.tickets.put_back(claimed)
    broken.run()
    drawn = {trial.user_attrs[TICKET]: trial.params for trial in broken.tickets.last_of_each()}
    assert drawn == {trial.user_attrs[TICKET]: trial.params for trial in first.tickets.last_of_each()}


def test_what_trial_0_does_is_drawn_again_and_counts_as_tried(tmp_path: Path) -> None:
    spaces = {"a": {"training.learning_rate": "0.01,0.02,0.03"}, "b": {"training.learning_rate": "0.01,0.04"}}
    alike = [{"training.learning_rate": 0.01}]
    asked = sweep(tmp_path, spaces, trials=8, with_default=True, like_default=alike, limits={"slots": 1})
    asked.run()
    tried = [json.loads(trial.user_attrs[VALUES]) for trial in asked.tickets.last_of_each()]
    assert tried[0] == {}
    assert sorted(values["training.learning_rate"] for values in tried[1:]) == [0.02, 0.03, 0.04]


def test_a_point_of_two_spaces_is_tried_once(tmp_path: Path) -> None:
    spaces = {"a": {"training.learning_rate": "0.1,0.2"}, "b": {"training.learning_rate": "0.3,0.1"}}
    asked = sweep(tmp_path, spaces, trials=6, limits={"slots": 1})
    asked.run()
    tried = [json.loads(trial.user_attrs[VALUES]) for trial in asked.tickets.last_of_each()]
    assert sorted(values["training.learning_rate"] for values in tried) == [0.1, 0.2, 0.3]


def test_a_trial_of_other_data_ends_the_sweep_and_waits(tmp_path: Path) -> None:
    asked = sweep(tmp_path, {"a": {"data.format": "other"}}, trials=3, limits={"slots": 1})
    with pytest.raises(ConfigError, match="the images have changed"):
        asked.run()
    assert states(asked) == ["WAITING"] * 3


def test_a_leaderboard_that_cannot_be_written_ends_the_sweep_in_good_order(tmp_path: Path) -> None:
    def changed() -> None:
        raise StorageError("leaderboard.csv cannot be written.")

    asked = sweep(tmp_path, {"all": RATES}, changed=changed)
    with pytest.raises(StorageError, match=r"leaderboard\.csv cannot be written\. What has ended is kept"):
        asked.run()
    assert len(asked.tickets.trials(TrialState.WAITING)) == 4
    assert not asked.tickets.trials(TrialState.RUNNING)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("crashes", "signal 11 (SIGSEGV)"),
        ("raises", "it cannot be done."),
        ("deaf", "was asked for, and 0.5 was used"),
    ],
)
def test_what_fails_costs_its_own_trial(tmp_path: Path, how: str, reason: str) -> None:
    spaces = {"a": {"training.learning_rate": "0.1,0.2", "data.format": f"good,{how}"}}
    asked = sweep(tmp_path, spaces, grid=True)
    asked.run()
    assert states(asked) == ["COMPLETE", "FAIL"] * 2
    assert all(reason in reasons(asked)[place] for place in (1, 3))
    assert asked.tickets.last_of_each()[1].value is None


def test_choices_that_train_the_same_are_told(tmp_path: Path) -> None:
    asked = sweep(tmp_path, {"a": {"augment": "none,default"}}, grid=True, limits={"slots": 1})
    asked.run()
    assert states(asked) == ["COMPLETE", "FAIL"]
    assert "augment='default' trains the same as trial 0 with augment='none'" in reasons(asked)[1]


def test_spaces_may_meet_and_so_may_the_default(tmp_path: Path) -> None:
    """Trial 0 has the rate that trial 1 draws, and both spaces come to the same."""
    spaces = {"a": {"training.learning_rate": "choice(0.01)"}, "b": {"data.format": "choice(good)"}}
    asked = sweep(tmp_path, spaces, with_default=True, trials=5, limits={"slots": 1})
    asked.run()
    assert states(asked) == ["COMPLETE"] * 3
    assert len({trial.user_attrs[HASH] for trial in asked.tickets.last_of_each()}) == 1


def test_what_hangs_is_ended_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_automl_vision.search.sweep._GRACE", 0.5)
    asked = sweep(tmp_path, {"a": {"data.format": "hangs,good"}}, grid=True, limits={"trial_seconds": 2.0})
    asked.run()
    assert states(asked) == ["FAIL", "COMPLETE"]
    assert "timed out" in reasons(asked)[0]
    assert not running(tmp_path)


def running(folder: Path) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if str(folder) in line and "fake_training" in line]


def test_a_policy_ends_what_is_not_worth_going_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.4")
    policy = {"type": "bandit", "slack_factor": 0.2}
    spaces = {"a": {"training.learning_rate": "0.2,0.01"}}
    asked = sweep(tmp_path, spaces, grid=True, policy=policy, limits={"slots": 1})
    asked.run()
    assert states(asked) == ["COMPLETE", "PRUNED"]
    assert "the best of all" in reasons(asked)[1]


def test_no_policy_ends_the_default_that_others_have_to_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.4")
    policy = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.9}
    spaces = {"a": {"training.learning_rate": "0.01,0.02"}}
    asked = sweep(tmp_path, spaces, grid=True, policy=policy, with_default=True, draws_default=True)
    asked.run()
    assert states(asked) == ["COMPLETE", "PRUNED"]


def test_a_freed_slot_is_filled_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots are never empty while tickets wait; the whole takes less than one after the other would."""
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    seen = []
    asked = sweep(tmp_path, {"all": RATES}, trials=5)
    asked.changed = lambda: seen.append(states(asked).count("RUNNING"))
    asked.run()
    assert max(seen) == 2
    assert seen.count(2) >= 4


def test_time_that_is_over_leaves_tickets_for_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    asked = sweep(tmp_path, {"all": RATES}, trials=6, limits={"slots": 1, "seconds": 1.0})
    asked.run()
    assert 1 <= states(asked).count("COMPLETE") < 6
    assert states(asked)[-1] == "WAITING"
    used = asked.tickets.study.user_attrs[USED]
    assert used >= 1.0
    again = sweep(tmp_path, {"all": RATES}, trials=6, limits={"slots": 1, "seconds": used + 0.1})
    again.run()
    assert states(again).count("WAITING") in (states(asked).count("WAITING"), states(asked).count("WAITING") - 1)


def test_too_many_failures_end_a_sweep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spaces = {"a": {"data.format": "raises", "training.learning_rate": "range(1,7)"}}
    asked = sweep(tmp_path, spaces, grid=True, limits={"slots": 1, "most_failures": 0.5})
    asked.run()
    assert states(asked) == ["FAIL", *["WAITING"] * 5]
    asked.tell_what_is_left()
    assert "more than 0.5 failed: 5 trials are left" in caplog.text
    assert "With a higher hydra.sweeper.max_failure_rate, the same command goes on." in caplog.text


SWEEPER = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_sweep import RATES, sweep
sweep(Path(sys.argv[1]), {"all": RATES}, trials=6).run()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    process = subprocess.Popen([sys.executable, "-c", SWEEPER, str(tmp_path), *sys.path], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while len(list(tmp_path.glob("trial_*/result.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) != 0
    finished = {path.parent.name: path.read_text() for path in tmp_path.glob("trial_*/result.json")}
    assert 2 <= len(finished) < 6
    asked = sweep(tmp_path, {"all": RATES}, trials=6)
    asked.run()
    assert states(asked) == ["COMPLETE"] * 6
    for name, text in finished.items():
        assert (tmp_path / name / "result.json").read_text() == text
    done = asked.tickets.trials(TrialState.COMPLETE)
    assert sorted(trial.user_attrs[TICKET] for trial in done) == list(range(6))


def test_the_leaderboard_says_everything_of_every_trial(tmp_path: Path) -> None:
    spaces = {"a": {"training.learning_rate": "0.1,0.2", "data.format": "good,raises"}}
    asked = sweep(tmp_path, spaces, grid=True)
    board = Leaderboard(
        folder=tmp_path, tickets=asked.tickets, metric="accuracy", lower_is_better=False, arguments=["model=resnet18"]
    )
    asked.changed = board.write
    asked.run()
    winner = board.finish()
    assert winner is not None
    assert winner.value == pytest.approx(0.8)
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    assert (document["primary_metric"], document["winner"]) == ("accuracy", 2)
    assert [(row["number"], row["state"], row["value"]) for row in document["trials"]] == [
        (2, "complete", pytest.approx(0.8)),
        (0, "complete", pytest.approx(0.4)),
        (1, "failed", None),
        (3, "failed", None),
    ]
    best, _, failed, _ = document["trials"]
    assert best["command"].endswith(" model=resnet18 training.learning_rate=0.2 'data.format='\"'\"'good'\"'\"''")
    assert (best["model"], failed["reason"]) == ("resnet18", "it cannot be done.")
    with (tmp_path / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["2", "0", "1", "3"]
    assert json.loads((tmp_path / "best" / "result.json").read_text())["primary_metric"]["value"] == pytest.approx(0.8)
    text = board.text()
    assert text.count("failed") == 2
    assert "there is no default to compare it with" in text


def test_cores_are_shared_among_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_for(2) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_for(1) >= threads_for(2) >= 1
    assert threads_for(10_000) == 1
