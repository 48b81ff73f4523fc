"""The leaderboard says what there is, how sure it is and which rule decided, and computes nothing twice."""

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState, create_trial
from terminal import Terminal, seen
from test_sweep import RATES, sweep

from lightning_automl_vision import result
from lightning_automl_vision.log import LOG, on_console
from lightning_automl_vision.search import evidence
from lightning_automl_vision.search.board_rows import Row, program
from lightning_automl_vision.search.board_table import cells_of, chosen, cut, table_lines
from lightning_automl_vision.search.leaderboard import Leaderboard
from lightning_automl_vision.search.live_table import LiveTable, live_table
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.per_image import PER_IMAGE, ImageValues
from lightning_automl_vision.search.tickets import Tickets

IMAGES = 200
COMPLETE, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Sweep:
    """A study of trials that left what trials leave; ``right`` is the share of the images that are right."""

    def __init__(self, folder, arguments=("model=resnet18",), metric="accuracy"):
        self.folder, self.study = folder, optuna.create_study(direction="maximize")
        self.board = Leaderboard(
            folder=folder, tickets=Tickets(self.study), metric=metric, lower_is_better=False, arguments=arguments
        )

    def add(self, right=None, *, state=COMPLETE, images=IMAGES, epochs=0, epoch_seconds=2.0, value=None, **told):
        number = len(self.study.trials)
        name = f"trial_{number:04}"
        (self.folder / name).mkdir()
        if right is not None and images:
            values = (np.arange(images) < right * images).astype(np.float64)
            names = tuple(f"{image}.jpg" for image in range(images))
            ImageValues(metric="accuracy", names=names, values=values).save(self.folder / name / PER_IMAGE)
        self.evaluated(name, epochs, epoch_seconds, right)
        value = right if value is None else value
        told = {"ticket": number, "folder": name, "seconds": 10.0, "overrides": [], **told}
        ended = state != TrialState.RUNNING
        trial = create_trial(
            state=state,
            value=value if ended and state != FAILED else None,
            user_attrs=told,
            intermediate_values={1: value} if state == PRUNED else {},
        )
        self.study.add_trial(trial)
        return name

    def evaluated(self, name, epochs, seconds=2.0, value=0.5):
        config = {"training": {"number_of_epochs": 10}, "trainer": {"max_steps": None}}
        (self.folder / name / "config.yaml").write_text(yaml.safe_dump(config))
        lines = [{"epoch": epoch, "seconds": seconds * epoch, "accuracy": value} for epoch in range(1, epochs + 1)]
        (self.folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def written(self):
        self.board.write()
        return json.loads((self.folder / "leaderboard.json").read_text())


@pytest.fixture
def trials(tmp_path):
    return Sweep(tmp_path)


# What it says


def test_trials_are_ranked_and_what_cannot_be_told_from_the_best_is_tied(trials):
    for right in (0.5, 0.9, 0.89, 0.9):
        trials.add(right)
    trials.add(0.95, state=PRUNED)
    trials.add(state=FAILED, reason="it broke")
    trials.study.enqueue_trial({}, user_attrs={"ticket": 6})
    rows = trials.written()["trials"]
    assert [(row["number"], row["rank"], row["state"], row["tied"]) for row in rows] == [
        (1, 1, "complete", None),
        (3, 1, "complete", True),
        (2, 3, "complete", True),
        (0, 4, "complete", False),
        (4, 5, "pruned", None),
        (6, None, "waiting", None),
        (5, None, "failed", None),
    ]
    assert rows[0]["interval"][0] < 0.9 < rows[0]["interval"][1]
    assert rows[3]["p_value"] < 0.05 <= rows[1]["p_value"]
    assert rows[-1]["reason"] == "it broke"


def test_a_pruned_trial_stands_with_its_best_epoch_as_its_own_result_does(trials):
    for last, best in ((0.5, 0.6), (0.1, 0.7)):
        name = trials.add(last, state=PRUNED)
        result = {"status": "pruned", "primary_metric": {"name": "accuracy", "value": best, "epoch": 2}}
        (trials.folder / name / "result.json").write_text(json.dumps(result))
    rows = trials.written()["trials"]
    assert [(row["number"], row["rank"], row["value"]) for row in rows] == [(1, 1, 0.7), (0, 2, 0.6)]


def test_a_model_that_no_argument_names_is_that_of_the_trials_configuration(tmp_path):
    known = Sweep(tmp_path, arguments=("+experiment=yolov5_from_scratch",))
    name = known.add(0.5)
    (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"model": {"name": "yolov5"}}))
    assert known.written()["trials"][0]["model"] == "yolov5"


def test_the_csv_has_all_that_the_json_has(trials):
    trials.add(0.8, epochs=3, memory=5 << 20, planned_seconds=7.5, overrides=["training.optimizer='sgd'", "model=x"])
    document = trials.written()["trials"][0]
    (trials.folder / document["folder"] / "result.json").write_text("{}")
    with (trials.folder / "leaderboard.csv").open() as file:
        (row,) = csv.DictReader(file)
    low, high = document.pop("interval")
    assert (float(row.pop("low")), float(row.pop("high"))) == (low, high)
    assert row.pop("overrides") == " ".join(document.pop("overrides"))
    assert row == {name: "" if value is None else str(value) for name, value in document.items()}
    assert (document["epochs"], document["number_of_epochs"]) == (3, 10)
    assert (document["memory"], document["planned_seconds"]) == (5 << 20, 7.5)


def test_what_a_policy_saved_is_what_pruned_trials_did_not_run_at_their_own_pace(trials):
    trials.add(0.8, epochs=10, seconds=30.0)
    trials.add(0.3, state=PRUNED, epochs=4, epoch_seconds=2.5, seconds=12.0)  # 6 epochs of 2.5 s are not run
    trials.add(state=PRUNED, value=0.2, seconds=8.0)  # ended before it had a pace
    assert trials.written()["saved"] == {
        "trials": 2,
        "unknown": 1,
        "epochs": 6,
        "seconds": 15.0,
        "spent_seconds": 50.0,
        "share": round(15 / 65, 4),
    }
    assert "ending 2 early saved 6 epochs, about 15 s (that of 1 is not known), 23%" in trials.board.text(120)


def test_a_number_of_steps_leaves_open_what_was_saved(trials):
    name = trials.add(0.3, state=PRUNED, epochs=4)
    config = {"training": {"number_of_epochs": 10}, "trainer": {"max_steps": 7}}
    (trials.folder / name / "config.yaml").write_text(yaml.safe_dump(config))
    assert trials.written()["saved"]["unknown"] == 1


def test_the_plan_stands_beside_what_was_taken(trials):
    trials.add(0.8, seconds=30.0, planned_seconds=20.0)
    trials.add(0.7, seconds=10.0, planned_seconds=15.0)
    trials.add(0.6, seconds=5.0)
    assert trials.written()["planned"] == {"trials": 2, "planned_seconds": 35.0, "seconds": 40.0}
    lines = trials.board.text(120).splitlines()
    assert lines[0].split()[-3:] == ["planned", "seconds", "memory"]
    assert lines[5].split() == ["total", "35", "45"]
    assert lines[-1] == "For 2 trials 35 s were planned; they took 40 s."


def test_no_plan_has_no_column(trials):
    trials.add(0.8)
    assert "planned" not in trials.board.text(120)


@pytest.mark.parametrize("lav", [True, False])
def test_the_command_runs_the_same_training_when_it_is_pasted(tmp_path, monkeypatch, lav):
    """``lav`` where the shell finds this one, else the Python of this installation."""
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([own, "/usr/bin", "/bin"] if lav else ["/usr/bin", "/bin"]))
    assert program() == (["lav"] if lav else [sys.executable, "-m", "lightning_automl_vision"])
    place, kind = 'it\'s [a] "place" {of}, $HOME `x`=1', "sgd"
    arguments = ["model=resnet18", *as_overrides({"data.training": place})]
    trials = Sweep(tmp_path, arguments)
    trials.add(0.5, overrides=as_overrides({"training.optimizer": kind, "training.learning_rate": 0.125}))
    command = trials.written()["trials"][0]["command"]
    shell = ["bash", "-c", f"{command} --cfg job"]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["data"]["training"] == place
    assert (config["training"]["optimizer"], config["training"]["learning_rate"]) == (kind, 0.125)


def test_the_most_memory_of_a_gpu_is_told_where_one_is_used(monkeypatch):
    assert result.device_memory() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 << 20)
    assert result.device_memory() == 3 << 20


# What it cannot say


def test_one_word_says_why_a_trial_cannot_be_compared(trials):
    trials.add(0.9)
    trials.add(0.8, images=0)
    torn = trials.add(0.7)
    (trials.folder / torn / PER_IMAGE).write_bytes(b"PK")
    trials.add(0.6, images=IMAGES + 1)
    unknown = trials.add(0.5)
    values = ImageValues(metric="accuracy", names=("a", "b"), values=np.full(2, np.nan))
    values.save(trials.folder / unknown / PER_IMAGE)
    rows = trials.written()["trials"]
    assert [row["missing"] for row in rows] == ["", "not kept", "unreadable", "other images", "undefined"]
    assert [row["interval"] is None for row in rows] == [False, True, True, False, True]
    assert all(row["p_value"] is row["tied"] is None for row in rows)
    for row, line in zip(rows, trials.board.text(200).splitlines()[2:], strict=False):
        assert row["interval"] is not None or row["missing"] in line


def test_what_is_missing_of_many_is_warned_of_once(trials, caplog):
    for _ in range(5):
        trials.add(0.5, images=0)
    LOG.propagate = True
    with caplog.at_level(logging.WARNING, LOG.name):
        trials.board.write()
        trials.board.write()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_a_sweep_of_no_trial_or_one_has_a_board(trials, count):
    for _ in range(count):
        trials.add(0.5)
    winner = trials.board.finish()
    text = trials.board.text(80)
    assert (winner is None) == (count == 0)
    assert ("No trial was finished." in text) == (count == 0)


# Which rule decides


@pytest.mark.parametrize(
    ("default", "others", "winner", "verdict"),
    [
        ({"right": 0.5}, [0.9], 1, "a proven gain over the default: 0.900 against 0.500"),
        ({"right": 0.80}, [0.81], 0, "no proven gain over the default: 0.810 against 0.800"),
        ({"right": 0.8}, [0.7, 0.6], 0, "no proven gain over the default, with accuracy 0.8000: none of 2 others is"),
        ({"right": 0.8}, [], 0, "no proven gain over the default, with accuracy 0.8000: no other trial was finished"),
        ({"right": 0.5, "images": 0}, [0.9], 0, "no proven gain over the default (0.5000), as the two were not judged"),
        ({"right": 0.5, "images": 90}, [0.9], 0, "no proven gain over the default (0.5000), as the two were not"),
        ({"state": FAILED}, [0.9], 1, "the default, trial 0, did not finish, so that nothing is proven"),
        (None, [0.9, 0.8], 0, "there is no default to compare it with"),
    ],
)
def test_the_verdict_says_which_rule_decided(trials, default, others, winner, verdict):
    if default is not None:
        trials.add(**default, default=True)
    for right in others:
        trials.add(right)
    chosen_trial = trials.board.finish()
    assert chosen_trial.user_attrs["ticket"] == winner
    assert verdict in trials.board.verdict
    document = json.loads((trials.folder / "leaderboard.json").read_text())
    assert (document["winner"], document["verdict"]) == (winner, trials.board.verdict)


def test_a_rival_without_images_is_no_hindrance_to_the_proof(trials):
    trials.add(0.5, default=True)
    trials.add(0.7, images=0)
    trials.add(0.9)
    trials.board.finish()
    assert trials.board.winner == 2
    assert "a proven gain" in trials.board.verdict


def test_trials_that_saw_other_images_are_named_beside_the_winner(trials):
    for images in (IMAGES, 90, IMAGES):
        trials.add(0.5, images=images)
    trials.board.finish()
    assert trials.board.verdict.endswith("Judged by other images, so that their figures cannot be compared: trial 1.")


def test_a_board_says_why_trial_0_stands_in_for_the_default(trials):
    trials.board.stands_in = "the command by itself is left out, as it takes too long"
    trials.add(0.8, default=True)
    trials.board.finish()
    assert json.loads((trials.folder / "leaderboard.json").read_text())["stands_in"] == trials.board.stands_in
    assert "Trial 0 stands in for the default: the command by itself is left out, as it" in trials.board.text(120)


def test_what_p_allows_for_is_said_where_table_and_verdict_seem_to_differ(trials):
    trials.add(0.8, default=True)
    trials.add(0.825)
    assert "the best alone" not in trials.board.text(120)
    names = tuple(f"{image}.jpg" for image in range(IMAGES))
    for seed in range(4):
        values = np.random.default_rng(seed).permutation((np.arange(IMAGES) < 0.8 * IMAGES).astype(np.float64))
        ImageValues(metric="accuracy", names=names, values=values).save(
            trials.folder / trials.add(0.8, images=0) / PER_IMAGE
        )
    trials.board.finish()
    assert "no proven gain" in trials.board.verdict
    assert next(row for row in trials.board.rows() if row.number == 0).tied is False
    said = "p is of a trial and the best alone; the verdict's allows for the best having been picked."
    assert said in trials.board.text(120)


# What it costs


def test_nothing_is_computed_twice(trials, monkeypatch):
    """Each ended trial's draws and interval once, its p-value once for each leader; progress of what ended once."""
    counted = {"load": 0, "resample": 0, "interval_of": 0, "p_value": 0}

    def counting(name, own):
        def call(*arguments):
            counted[name] += len(arguments[0]) if name == "resample" else 1
            return own(*arguments)

        return call

    for name in counted:
        monkeypatch.setattr(evidence, name, counting(name, getattr(evidence, name)))
    for place in range(20):
        trials.add(0.5 + place / 100, epochs=3)
    for _ in range(3):
        trials.board.write()
    assert counted == {"load": 20, "resample": 20, "interval_of": 20, "p_value": 19}
    trials.add(0.1)
    trials.board.write()
    assert counted == {"load": 21, "resample": 21, "interval_of": 21, "p_value": 20}
    trials.add(0.99)
    trials.board.write()
    assert counted == {"load": 22, "resample": 22, "interval_of": 22, "p_value": 41}
    for folder in trials.folder.glob("trial_*"):  # nothing of an ended trial is read again
        for file in folder.iterdir():
            file.unlink()
    assert [row.epochs for row in trials.board.rows()[1:-1]] == [3] * 20
    assert counted["load"] == 22


def test_images_are_kept_as_draws_alone(trials):
    for _ in range(3):
        trials.add(0.5)
    trials.board.write()
    known = [one.images.judging for one in trials.board._evidence._known.values()]
    assert all(one is known[0] for one in known)


# How it looks


def rows_of(count, **more):
    rate = "training.learning_rate=0.0123456789"
    long = [rate, "training.optimizer='adamw'", "model.image_size=640", "data.training='映像 の 場所'"]
    return [
        Row(number=number, state="complete", value=0.5, rank=number + 1, overrides=long, seconds=123.4, **more)
        for number in range(count)
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
@pytest.mark.parametrize("live", [True, False])
def test_no_line_is_wider_than_the_terminal(width, live):
    rows = rows_of(3, interval=(0.1, 0.9), p_value=0.5, epochs=3, memory=5 << 30, planned_seconds=100.0)
    lines = table_lines(rows, metric="mean_average_precision", width=width, live=live)
    assert max(map(cells_of, lines)) <= width
    assert len(lines) == (5 if live else 6)  # a total of what was planned, once it is over
    if width >= 80:
        assert all("learning_rate=0.01235" in line for line in lines[2:5])
    if width == 200:
        assert lines[2].endswith("optimizer=adamw image_size=640 training=映像 の 場所")


def test_the_epochs_of_a_running_trial_are_seen_in_80_columns():
    rows = [*rows_of(2), Row(number=2, state="running", value=0.25, epochs=3, number_of_epochs=15, seconds=9.0)]
    line = table_lines(rows, metric="accuracy", width=80, live=True)[-1]
    assert line.split() == ["2", "running", "0.2500", "3/15", "9"]


def test_keys_are_brief_where_no_other_key_ends_alike():
    row = Row(number=0, state="complete", overrides=["training.size='1'", "model.size=2", "training.rate=1e-05"])
    line = table_lines([row], metric="accuracy", width=120)[-1]
    assert line.endswith("training.size=1 model.size=2 rate=1e-05")


def test_an_ellipsis_stands_for_what_has_no_room():
    assert [cut("abcdef", width) for width in (6, 5, 1, 0)] == ["abcdef", "abcd…", "…", ""]
    assert cut("映像", 3) == "映…"


def test_where_there_is_no_room_for_all_the_running_come_first_and_the_others_are_counted():
    rows = [
        *rows_of(5),
        Row(number=5, state="running"),
        *(Row(number=place, state="waiting") for place in range(6, 20)),
    ]
    shown, others = chosen(rows, 4, keep=4)
    assert [row.number for row in shown] == [0, 4, 5]
    assert others == "… and 17 more: 3 complete, 14 waiting"
    assert chosen(rows, 20) == (rows, "")


# In the terminal


@pytest.fixture
def terminal():
    opened = Terminal(columns=60, height=8)
    yield opened
    if not opened.stream.closed:
        opened.close()


def test_the_table_is_drawn_in_place_and_what_is_said_stands_above_it(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setenv("TERM", "xterm")
    state = ["row-a"]
    with on_console(quiet=False), live_table(lambda columns, height: [*state, "x" * 100], quiet=False) as draw:
        LOG.info("one")
        state[:] = ["row-b", "row-c"]
        draw()
        print("by itself", file=sys.stderr)
        print("unfinished", end="", file=sys.stderr)
        LOG.info(" two" * 20)  # wider than the terminal
        draw()
        wide = "x" * 58 + "…"
        state[:] = ["row-d"]
        draw()
    assert sys.stderr is terminal.stream
    LOG.info("silent")  # nobody listens any more
    terminal.close()
    drawn = terminal.text.rpartition(f"row-d\r\n{wide}")
    assert seen("".join(drawn[:2]), 60)[:2] == ["one", "by itself"]
    assert seen("".join(drawn[:2]), 60)[-2:] == ["row-d", wide]
    text = "\n".join(terminal.lines())
    assert "xxx" not in text
    assert [word for word in ("row-a", "row-b", "row-c", "row-d") if word in text] == []
    assert "unfinished" in text
    assert "two two" in text


def test_no_more_lines_are_drawn_than_the_terminal_has(terminal):
    table = LiveTable(terminal.stream, lambda columns, height: [f"line {number}" for number in range(50)])
    with table.shown(every=60):
        table.draw()
        table.say("said\n")
    terminal.close()
    assert terminal.lines() == ["said", ""]
    assert "line 6" in terminal.text
    assert "line 7" not in terminal.text


def test_what_changes_by_itself_is_drawn_by_itself(terminal):
    counted = []

    def lines(columns, height):
        counted.append(1)
        return [str(len(counted))]

    with LiveTable(terminal.stream, lines).shown(every=0.01):
        while len(counted) < 4:
            pass
    terminal.close()
    assert terminal.lines() == [""]


def test_a_terminal_that_became_narrower_is_wiped_all_the_same(terminal):
    table = LiveTable(terminal.stream, lambda columns, height: ["y" * 50])
    table.draw()
    assert table._wiping(60) == "\x1b[1F\x1b[J"
    assert table._wiping(30) == "\x1b[2F\x1b[J"


@pytest.mark.parametrize(("height", "shown"), [(40, 33), (33, 33), (32, 32), (10, 10), (5, 5), (4, 1), (2, 1)])
def test_what_is_drawn_of_a_sweep_has_as_many_lines_as_there_are(trials, height, shown):
    for _ in range(30):
        trials.add(0.5, planned_seconds=9.0)
    trials.board.write()
    lines = trials.board.lines(80, height)
    assert len(lines) == shown
    assert lines[-1] == "30 of 30 trials have ended, 0 run; 0.0 minutes"
    assert any("more: " in line for line in lines) == (4 < height < 33)


@pytest.mark.parametrize("why", ["quiet", "dumb", "file"])
def test_without_a_terminal_there_are_log_lines_alone(terminal, monkeypatch, tmp_path, why):
    monkeypatch.setenv("TERM", "dumb" if why == "dumb" else "xterm")
    with (tmp_path / "log").open("w") as file:
        stream = file if why == "file" else terminal.stream
        monkeypatch.setattr(sys, "stderr", stream)
        with on_console(quiet=False), live_table(lambda *_: ["table"], quiet=why == "quiet") as draw:
            LOG.info("one")
            draw()
    terminal.close()
    text = (tmp_path / "log").read_text() if why == "file" else terminal.text
    assert text.split() == ["one"]


def test_a_sweep_shows_how_far_its_trials_are(tmp_path, monkeypatch):
    terminal = Terminal(columns=100)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    monkeypatch.setenv("FAKE_EPOCH", "0.4")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    asked = sweep(tmp_path, {"all": RATES}, trials=3)
    board = Leaderboard(
        folder=tmp_path, tickets=asked.tickets, metric="accuracy", lower_is_better=False, arguments=["model=resnet18"]
    )
    asked.changed = board.write
    monkeypatch.setattr("lightning_automl_vision.search.live_table.EVERY", 0.1)
    with on_console(quiet=False), live_table(board.lines, quiet=False) as board.drawn:
        asked.run()
    board.finish()
    terminal.close()
    assert "3 of 3 trials have ended, 0 run" in terminal.text
    running = [line for line in terminal.text.splitlines() if " running " in line]
    assert any(" 0.1" in line or " 0.2" in line or " 0.3" in line for line in running)
    left = terminal.lines()
    assert "trials have ended" not in "\n".join(left)
    assert [line.split(":")[0] for line in left if line.startswith("trial ")].count("trial 2") == 2
    assert all(row.memory for row in board.rows())
