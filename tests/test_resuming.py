"""A run that was ended goes on where it was: on the CPU its digits are those of one that nobody ended."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from pictures import write_folders, write_objects
from test_training import CLASSES, batches, config, evaluations
from test_windows import cut, labelled
from torch import nn
from torch.utils.data import DataLoader
from trial_fakes import fake_command, wait_until

import lightning_automl_vision as lav
from lightning_automl_vision.data.sampling import EpochSampler
from lightning_automl_vision.data.window_sampling import WindowSampler
from lightning_automl_vision.errors import ConfigError, Interrupted
from lightning_automl_vision.models import Classifier
from lightning_automl_vision.search.trial_process import TrialProcess
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.tasks.classification import MulticlassTask
from lightning_automl_vision.training.checkpoints import load, save
from lightning_automl_vision.training.ending import Ending
from lightning_automl_vision.training.fit import fit
from lightning_automl_vision.training.resuming import find

OFTEN = 1e-9  # minutes: after each step
SELDOM = 5.0


class Killed(BaseException):
    """What ends a training in the middle of everything."""


# Tensors and a tiny network, ended after any batch


class Tensors(DataLoader):
    """Batches that are not shuffled, of which the first ones of an epoch can be left out."""

    begun = (0, 0)
    epoch = 0

    def __init__(self, made):
        super().__init__(made, batch_size=None)
        self.made = made

    def begin_at(self, epoch, batches):
        self.begun = (epoch, batches)
        self.epoch = epoch

    def __iter__(self):
        first = self.begun[1] if self.begun[0] == self.epoch else 0
        self.epoch += 1
        return islice(iter(self.made), first, None)


class Dying(MulticlassTask):
    """Is killed before its batch of this number, counted over all epochs; ``trained`` are those it was given."""

    dies_at = None
    trained = 0

    def training_step(self, batch, index):
        if self.trained == self.dies_at:
            raise Killed
        self.trained += 1
        return super().training_step(batch, index)


def dropping():
    """Draws in each step, and has norms with statistics."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3)
    )
    return Classifier(network, multilabel=False)


def attempt(folder, training, *, dies_at=None, task=Dying, trainer=None, minutes=10.0, data=7, callbacks=()):
    """One attempt at a training of these tensors, which goes on where the one before was."""
    made = task(dropping(), training, CLASSES)
    made.dies_at = dies_at
    torch.manual_seed(1)
    resumed = find(folder, "tensors")
    loader = Tensors(batches(data))
    if resumed is not None:
        loader.begin_at(resumed.epochs, resumed.batches)
    result = fit(
        made,
        loader,
        DataLoader(batches(2, seed=1), batch_size=None),
        training=training,
        trainer=trainer or TrainerConfig(accelerator="cpu", log_every_n_steps=3),
        limits=LimitsConfig(timeout_minutes=minutes),
        folder=folder,
        callbacks=callbacks,
        quiet=True,
        data="tensors",
        resumed=resumed,
    )
    return made, result


def digits(folder):
    return [{**line, "seconds": 0} for line in evaluations(folder)]


def assert_same(ended, whole):
    (task, result), (other, expected) = ended, whole
    assert (result.status, result.best_epoch, result.epochs) == (expected.status, expected.best_epoch, expected.epochs)
    assert result.best_metrics == expected.best_metrics
    assert np.array_equal(task.scores, other.scores)
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in task.model.state_dict().items())


HARD = {
    "ema_decay": 0.9,
    "gradient_accumulation_step": 3,
    "optimizer": "adamw",
    "number_of_epochs": 4,
    "evaluation_frequency": 2,
    "early_stopping": False,
}
WARM_UP = {
    "learning_rate_scheduler": "linear",
    "nominal_batch_size": 200,
    "number_of_epochs": 4,
    "early_stopping": False,
}


@pytest.mark.parametrize("minutes", [OFTEN, SELDOM])
@pytest.mark.parametrize("values", [HARD, WARM_UP], ids=["hard", "warm-up"])
def test_wherever_a_training_is_killed_the_next_attempt_comes_to_the_same_digits(values, minutes, tmp_path):
    training = config(**values, checkpoint_minutes=minutes)
    whole = attempt(tmp_path / "whole", training)
    for dies_at in range(1, 28, 5):
        folder = tmp_path / str(dies_at)
        with pytest.raises(Killed):
            attempt(folder, training, dies_at=dies_at)
        again = attempt(folder, training)
        if minutes == OFTEN and values is HARD:
            assert again[0].trained <= 28 - dies_at + 3, "no more than the batches of a step are trained on again"
        assert_same(again, whole)
        assert digits(folder) == digits(tmp_path / "whole")
        shutil.rmtree(folder)


def test_a_training_that_is_killed_again_and_again_comes_to_its_end(tmp_path):
    training = config(**HARD, checkpoint_minutes=OFTEN)
    whole = attempt(tmp_path / "whole", training)
    for _ in range(7):
        with pytest.raises(Killed):
            attempt(tmp_path / "ended", training, dies_at=4)
    assert_same(attempt(tmp_path / "ended", training), whole)
    assert digits(tmp_path / "ended") == digits(tmp_path / "whole")


def test_no_gradient_of_a_step_that_was_made_enters_the_next(tmp_path):
    """In a warm-up a step may begin with a batch whose number its batches do not divide."""
    waiting = []

    class Looking(Dying):
        def on_train_batch_end(self, *arguments):
            waiting.append(any(parameter.grad is not None for parameter in self.model.parameters()))

        def optimizer_step(self, *arguments, **options):
            super().optimizer_step(*arguments, **options)
            waiting.append("step")

    attempt(tmp_path, config(**WARM_UP), task=Looking, data=30)
    after = [now for before, now in pairwise(waiting) if before == "step"]
    assert len(after) > 10
    assert not any(after)


def scripted(values):
    """Evaluations that come to these values, in every attempt."""

    class Scripted(Dying):
        def compute(self):
            return {**super().compute(), "accuracy": values[self.current_epoch]}

    return Scripted


@pytest.mark.parametrize("dies_at", [5, 8, 13, 20])
def test_a_best_epoch_of_an_earlier_attempt_stays_the_best_and_is_judged_again(dies_at, tmp_path):
    task = scripted([0.7, 0.9, 0.8, 0.1, 0.2])
    training = config(number_of_epochs=5, early_stopping_patience=2, early_stopping_delay=0)
    whole = attempt(tmp_path / "whole", training, task=task, data=5)
    assert (whole[1].status, whole[1].best_epoch, whole[1].epochs) == ("stopped_early", 2, 4)
    if dies_at < 20:
        with pytest.raises(Killed):
            attempt(tmp_path / "ended", training, task=task, data=5, dies_at=dies_at)
    else:  # nothing is left to train
        attempt(tmp_path / "ended", training, task=task, data=5)
    again = attempt(tmp_path / "ended", training, task=task, data=5)
    assert_same(again, whole)
    assert again[0].trained == (20 - dies_at // 5 * 5)
    assert digits(tmp_path / "ended") == digits(tmp_path / "whole")


def test_a_best_that_came_after_the_checkpoint_does_not_take_the_place_of_the_one_it_refers_to(tmp_path):
    class Dies(MulticlassTask):
        """After its third evaluation was written down, and before the checkpoint that follows it."""

        def on_validation_end(self):
            if self.dies_at and self.current_epoch == 2:
                raise Killed

    task = type("Both", (Dies, scripted([0.5, 0.6, 0.9, 0.4])), {})
    training = config(number_of_epochs=4, early_stopping=False)
    with pytest.raises(Killed):
        attempt(tmp_path, training, task=task, dies_at=99)
    checkpoints = tmp_path / "checkpoints"
    # Lightning calls callbacks before the module, so that the checkpoint is taken away by hand.
    (checkpoints / "previous.ckpt").replace(checkpoints / "last.ckpt")
    assert load(checkpoints / "best.ckpt")["epoch"] == 3
    resumed = find(tmp_path, "tensors")
    assert resumed.evaluations["best_epoch"] == load(checkpoints / "best.ckpt")["epoch"] == 2
    assert len(evaluations(tmp_path)) == 3
    _, result = attempt(tmp_path, training, task=task)
    assert result.best_epoch == 3
    assert [line["epoch"] for line in evaluations(tmp_path)] == [1, 2, 3, 4]


def test_a_step_limit_and_its_end_are_remembered(tmp_path):
    trainer = TrainerConfig(accelerator="cpu", max_steps=10)
    training = config(number_of_epochs=4, checkpoint_minutes=OFTEN)
    whole = attempt(tmp_path / "whole", training, trainer=trainer)
    for dies_at in (3, 7, 8):
        folder = tmp_path / str(dies_at)
        with pytest.raises(Killed):
            attempt(folder, training, trainer=trainer, dies_at=dies_at)
        assert_same(attempt(folder, training, trainer=trainer), whole)
        assert digits(folder) == digits(tmp_path / "whole")
        again = attempt(folder, training, trainer=trainer)
        assert_same(again, whole)
        assert again[0].trained == 0, "what has come to its end takes no step"


def test_time_that_earlier_attempts_used_counts(tmp_path):
    training = config(number_of_epochs=4, early_stopping=False, checkpoint_minutes=OFTEN)
    with pytest.raises(Killed):
        attempt(tmp_path, training, dies_at=10)
    path = tmp_path / "checkpoints" / "last.ckpt"
    used = load(path)
    used["lightning_automl_vision"]["seconds"] = 3600.0
    save(used, path)
    task, result = attempt(tmp_path, training, minutes=59.0)
    assert (result.status, task.trained) == ("timeout", 1)
    assert result.seconds_before == 3600.0
    assert evaluations(tmp_path)[-1]["seconds"] >= 3600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_a_training_loses_no_step(number, tmp_path):
    class Asked(Dying):
        def on_train_batch_start(self, batch, index):
            super().on_train_batch_start(batch, index)
            if self.trained == self.ends_at:
                signal.raise_signal(number)

    training = config(**HARD, checkpoint_minutes=SELDOM)
    Asked.ends_at = None
    whole = attempt(tmp_path / "whole", training, task=Asked)
    Asked.ends_at = 10
    first = attempt(tmp_path / "ended", training, task=Asked)
    assert (first[1].status, first[0].trained) == ("interrupted", 13), "the batches of the step are gone through"
    Asked.ends_at = None
    again = attempt(tmp_path / "ended", training, task=Asked)
    assert again[0].trained == 28 - 13
    assert_same(again, whole)
    assert digits(tmp_path / "ended") == digits(tmp_path / "whole")


# Checkpoints that cannot be used


@pytest.fixture
def ended(tmp_path):
    """A training that was killed in its third epoch, with a checkpoint after each of the two before."""
    with pytest.raises(Killed):
        attempt(tmp_path, config(), dies_at=16)
    return tmp_path


def tear(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path):
    """As a disk does that lost a block."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 255 for byte in content[middle : middle + 64])
    path.write_bytes(content)


def age(path):
    values = load(path)
    values["lightning_automl_vision"]["version"] = 0
    save(values, path)


@pytest.mark.parametrize(
    ("harm", "words"), [(tear, "it cannot be read"), (spoil, "it cannot be read"), (age, "another version")]
)
def test_a_checkpoint_that_cannot_be_used_gives_way_to_the_one_before(
    harm, words, ended, tmp_path, caplog, monkeypatch
):
    whole = attempt(tmp_path / "whole", config())
    harm(ended / "checkpoints" / "last.ckpt")
    monkeypatch.setattr("lightning_automl_vision.log.LOG.propagate", True)
    again = attempt(ended, config())
    told = [record.getMessage() for record in caplog.records if "last.ckpt" in record.getMessage()]
    assert len(told) == 1
    assert words in told[0]
    assert "\n" not in told[0]
    assert again[0].trained == 14
    assert_same(again, whole)
    assert digits(ended) == digits(tmp_path / "whole")


def test_where_no_checkpoint_can_be_used_training_begins_anew(ended, caplog, monkeypatch):
    for name in ("last.ckpt", "previous.ckpt"):
        tear(ended / "checkpoints" / name)
    monkeypatch.setattr("lightning_automl_vision.log.LOG.propagate", True)
    task, _ = attempt(ended, config())
    assert task.trained == 21
    assert "training begins anew" in caplog.text
    assert len(evaluations(ended)) == 3


def test_a_checkpoint_runs_nothing_that_is_in_it(ended):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(ended / "harmed"),)

    values = load(ended / "checkpoints" / "last.ckpt")
    for name in ("last.ckpt", "previous.ckpt"):
        save({**values, "more": Harmful()}, ended / "checkpoints" / name)
    assert find(ended, "tensors") is None
    assert not (ended / "harmed").exists()


def test_what_a_killed_process_was_writing_is_cleared_away(ended):
    left = ended / "checkpoints" / ".1234.last.ckpt"
    left.write_bytes(b"half")
    attempt(ended, config())
    assert not left.exists()


def test_a_checkpoint_is_replaced_whole_and_the_one_before_kept(tmp_path):
    path = tmp_path / "last.ckpt"
    for number in range(3):
        save({"number": number}, path, before="previous.ckpt")
    assert [load(path)["number"], load(tmp_path / "previous.ckpt")["number"]] == [2, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_asking_for_a_checkpoint_changes_no_digit(tmp_path):
    often, seldom = (attempt(tmp_path / str(value), config(**HARD, checkpoint_minutes=value)) for value in (OFTEN, 5.0))
    assert_same(often, seldom)
    assert digits(tmp_path / str(OFTEN)) == digits(tmp_path / "5.0")


# The order of the data


@pytest.mark.parametrize("groups", [None, [np.arange(10), np.arange(10, 30)]])
def test_an_epoch_goes_on_with_the_images_that_were_left(groups):
    def drawn(begun=None):
        sampler = EpochSampler(30, shuffle=True, seed=3, groups=groups)
        if begun is not None:
            sampler.begin_at(*begun)
        else:
            sampler.set_epoch(2)
        this = list(sampler)
        sampler.set_epoch(3)
        return this, list(sampler)

    whole, after = drawn()
    assert drawn((2, 11)) == (whole[11:], after)
    assert drawn((2, 0)) == (whole, after)


def test_an_epoch_of_windows_goes_on_with_those_that_were_left():
    def drawn(begun=None):
        made = cut(labelled(None, 50))
        sampler = WindowSampler(made, EpochSampler(50, shuffle=True, seed=3), 8, 3, True)
        if begun is not None:
            sampler.begin_at(*begun)
        else:
            sampler.set_epoch(2)
        this = list(sampler)
        sampler.set_epoch(3)
        return this, list(sampler)

    whole, after = drawn()
    assert drawn((2, 40)) == (whole[40:], after)


# Whole runs


@contextmanager
def dying_at(batch):
    """Every training is killed before its batch of this number."""
    trained = 0
    step = VisionTask.training_step

    def counted(self, *arguments):
        nonlocal trained
        if trained == batch:
            raise Killed
        trained += 1
        return step(self, *arguments)

    VisionTask.training_step = counted
    try:
        yield
    finally:
        VisionTask.training_step = step


def run(folder, words):
    return lav.train(**{**words, "output_dir": str(folder)}, quiet=True)


def written(folder):
    """All that a run says of what it learnt."""
    with (folder / "csv" / "metrics.csv").open(newline="") as table:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(table)]
    others = [folder / name for name in ("evaluation.json", "predictions.jsonl", "model/weights.safetensors")]
    result = json.loads((folder / "result.json").read_text())
    return {
        "lines": digits(folder),
        "rows": rows,
        "files": {path.name: path.read_bytes() for path in others if path.exists()},
        "result": {name: result[name] for name in ("status", "primary_metric", "metrics", "test_metrics", "epochs")},
    }


def photos(folder, **training):
    usual = {
        "number_of_epochs": 2,
        "training_batch_size": 4,
        "training_crop_size": 32,
        "validation_crop_size": 32,
        "validation_resize_size": 32,
        "number_of_workers": 0,
        "random_seed": 3,
        "checkpoint_minutes": OFTEN,
    }
    return {
        "model": {"name": "resnet18", "pretrained": False},
        "data": {
            "training": str(write_folders(folder / "photos")),
            "split": "stratified",
            "cache": str(folder / "cache"),
        },
        "training": {**usual, **training},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 2},
    }


def objects(folder, model, *, training=None, **keys):
    return {
        "task": {"name": "image_object_detection"},
        "model": {"pretrained": False, **model},
        "data": {"training": str(write_objects(folder / "objects", 14)), "cache": str(folder / "cache")},
        "training": {
            "number_of_epochs": 2,
            "training_batch_size": 2,
            "number_of_workers": 0,
            "random_seed": 3,
            "checkpoint_minutes": OFTEN,
            **(training or {}),
        },
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 2},
        **keys,
    }


YOLO = {"name": "yolov5", "model_size": "nano", "image_size": 64}


def yolo(folder):
    """Mosaics, an average of the weights, and a warm-up in which steps become longer."""
    return objects(folder, YOLO)


def tiles(folder):
    tiler = {"name": "grid", "grid_size": "2x1", "overlap_ratio": 0.25}
    return objects(folder, YOLO, training={"number_of_workers": 2, "training_batch_size": 8}, tiler=tiler)


def balanced(folder):
    return photos(folder, balanced_sampling=True, ema_decay=0.9, label_smoothing=0.1)


@pytest.mark.parametrize(("words", "dies_at"), [(balanced, 3), (yolo, 5), (tiles, 3)])
def test_a_run_that_is_ended_writes_what_one_that_is_not_writes(words, dies_at, tmp_path):
    asked = words(tmp_path)
    run(tmp_path / "whole", asked)
    with pytest.raises(Killed), dying_at(dies_at):
        run(tmp_path / "ended", asked)
    assert json.loads((tmp_path / "ended" / "result.json").read_text())["status"] == "failed"
    run(tmp_path / "ended", asked)
    assert written(tmp_path / "ended") == written(tmp_path / "whole")
    names = {path.name for path in (tmp_path / "ended" / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt"}, "a run that is finished has nothing to go on from"


def test_a_process_that_is_killed_is_gone_on_from_by_the_same_command(tmp_path):
    command = [
        *(sys.executable, "-m", "lightning_automl_vision"),
        *("model=timm", "model.architecture=test_vit3", "model.pretrained=false"),
        *("training.number_of_epochs=2", "training.training_batch_size=4", "training.ema_decay=0.9"),
        *("training.gradient_accumulation_step=2", "training.checkpoint_minutes=1e-6", "training.number_of_workers=2"),
        *("trainer.accelerator=cpu", f"data.training={write_folders(tmp_path / 'photos')}", "data.split=stratified"),
        f"data.cache={tmp_path / 'cache'}",
    ]
    run = tmp_path / "ended"
    process = subprocess.Popen([*command, f"output_dir={run}"], stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        wait_until(lambda: process.poll() is not None or (run / "metrics.jsonl").exists())
        time.sleep(float(np.random.default_rng().uniform(0, 0.5)))
    finally:
        process.kill()
        process.wait()
    # The seed that was drawn stands in the folder of the run that was killed, and there alone.
    seed = (run / "overrides.txt").read_text().splitlines()[-1]
    assert seed.startswith("training.random_seed=")
    for words in ([*command, f"output_dir={run}"], [*command, seed, f"output_dir={tmp_path / 'whole'}"]):
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
    assert written(run) == written(tmp_path / "whole")


# Which run it is


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run without a seed that the user ended in its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    asked = photos(folder)
    asked["training"].pop("random_seed")
    trained = 0
    listen = Ending.on_train_batch_end

    def ask(self, trainer, *arguments):
        nonlocal trained
        trained += 1
        if trained == 7:
            signal.raise_signal(signal.SIGINT)
        listen(self, trainer, *arguments)

    Ending.on_train_batch_end = ask
    try:
        with pytest.raises(Interrupted, match="Repeat the command to go on from there"):
            run(folder / "run", asked)
    finally:
        Ending.on_train_batch_end = listen
    return folder, asked


def test_what_an_interrupted_run_keeps_says_so(interrupted):
    text = (interrupted[0] / "run" / "model" / "README.md").read_text()
    assert "Its training ended as `interrupted` after" in text
    assert "lav reproduce" not in text


@pytest.fixture
def copied(interrupted, tmp_path):
    folder, asked = interrupted
    shutil.copytree(folder / "run", tmp_path / "run")
    return tmp_path / "run", asked


@pytest.mark.parametrize(
    ("group", "key", "value", "was"),
    [
        ("training", "learning_rate", 0.5, "0.01"),
        ("training", "number_of_epochs", 3, "2"),
        ("training", "random_seed", 7, ""),
        ("data", "validation_data_size", 0.5, "0.2"),
    ],
)
def test_another_configuration_is_refused_with_the_key_and_the_ways_out(group, key, value, was, copied):
    folder, asked = copied
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ConfigError) as refused:
        run(folder, {**asked, group: {**asked[group], key: value}})
    message = str(refused.value)
    assert f"{group}.{key}={value}: it had {was}" in message
    assert "resume=never" in message
    assert "name another folder" in message
    assert "\n" not in message
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_decides_nothing_may_differ_and_the_seed_that_was_drawn_is_taken(copied):
    folder, asked = copied
    seed = json.loads((folder / "overrides.txt").read_text().splitlines()[-1].partition("=")[2])
    more = {"number_of_workers": 2, "checkpoint_minutes": 1.0, "checkpoint_frequency": 1}
    training = {**asked["training"], **more}
    result = run(folder, {**asked, "training": training, "limits": {"timeout_minutes": 9}, "logger": "none"})
    assert (result.status, result.random_seed) == ("completed", seed)
    again = run(folder.parent / "whole", {**asked, "training": {**asked["training"], "random_seed": seed}})
    assert again.metrics == result.metrics
    assert digits(folder) == digits(folder.parent / "whole")
    with pytest.raises(ConfigError, match="already holds a finished run"):
        run(folder, asked)


def test_a_run_begins_anew_where_that_is_asked_for(copied):
    folder, asked = copied
    training = {**asked["training"], "number_of_epochs": 1, "random_seed": 5}
    result = run(folder, {**asked, "training": training, "resume": "never"})
    assert (result.status, result.epochs, result.random_seed) == ("completed", 1, 5)
    assert [line["epoch"] for line in evaluations(folder)] == [1]


def test_other_images_are_refused(copied):
    folder, asked = copied
    photos = folder.parent / "photos"
    shutil.copytree(asked["data"]["training"], photos)
    moved = {**asked, "data": {**asked["data"], "training": str(photos)}}
    run_of_it = folder.parent / "other"
    with pytest.raises(Killed), dying_at(3):
        run(run_of_it, moved)
    red, blue, aside = photos / "red" / "0.png", photos / "blue" / "0.png", photos / "aside"
    for source, target in ((red, aside), (blue, red), (aside, blue)):  # each now shows what the other did
        source.rename(target)
    with pytest.raises(ConfigError, match="images or labels it was trained on have changed since"):
        run(run_of_it, moved)


def test_resume_is_auto_or_never(copied):
    folder, asked = copied
    with pytest.raises(ConfigError, match="resume=always: must be one of auto, never"):
        run(folder, {**asked, "resume": "always"})


# In a sweep


def test_a_trial_that_goes_on_reports_all_of_its_evaluations(tmp_path):
    """So that its second evaluation is compared with the second of the others."""
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "metrics.jsonl").write_text(
        '{"epoch": 1, "step": 4, "accuracy": 0.1}\n{"epoch": 2, "step": 8, "accuracy": 0.2}\n'
    )
    code = """
from lightning_automl_vision.training.resuming import Resumed, begin
resumed = Resumed(path=folder, checkpoint={}, epochs=1, batches=2, step=6, seconds=1.0, ended=None, reason=None,
                  data="", evaluations={}, task={}, random={})
begin(folder, resumed)
evaluate(2, 0.3)
finish(value=0.3)
"""
    trial = TrialProcess.start(fake_command(tmp_path, code))
    assert trial.wait(120).state == "complete"
    assert trial.reports() == [(1, 0.1), (2, 0.3)]
