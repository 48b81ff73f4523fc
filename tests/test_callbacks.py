"""What happens around the steps: the decision to stop, the bar, the trackers, the ways a training ends."""

import io
import json
import logging
import sys

import pytest
import torch
from test_training import CLASSES, batches, classifier, config, evaluations, loader, scripted, train
from torch import nn

from lightning_automl_vision.errors import ConfigError, TrainingError
from lightning_automl_vision.models import Batch, Classifier, Targets
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig
from lightning_automl_vision.tasks.classification import MulticlassTask
from lightning_automl_vision.training.devices import check_trainer, computes_bf16
from lightning_automl_vision.training.early_stopping import EarlyStopping, improves
from lightning_automl_vision.training.ending import Ending
from lightning_automl_vision.training.evaluations import span
from lightning_automl_vision.training.fit import fit
from lightning_automl_vision.training.losses import LossMeter
from lightning_automl_vision.training.start_weights import load_start_weights
from lightning_automl_vision.training.trackers import make_trackers

NAN = float("nan")
CPU = TrainerConfig(accelerator="cpu")


def stops_at(values, *, patience, delay):
    stopping = EarlyStopping(patience, delay)
    return next((number for number, value in enumerate(values, start=1) if stopping.observe(value)), None)


@pytest.mark.parametrize(
    ("values", "patience", "delay", "stop"),
    [
        ([0.5] * 20, 5, 5, 11),
        ([0.5] * 20, 1, 0, 2),
        ([0.1, 0.2, 0.2, 0.2, 0.3], 2, 0, 4),
        ([0.1, 0.2, 0.2, 0.3, 0.3, 0.3], 2, 0, 6),
        ([0.9, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4], 2, 1, 7),
        ([NAN] * 4, 2, 0, 3),
        ([NAN, 0.1, NAN, NAN], 2, 0, 4),
        ([0.1, 0.2, 0.3], 1, 0, None),
    ],
)
def test_training_stops_at_exactly_this_evaluation(values, patience, delay, stop):
    assert stops_at(values, patience=patience, delay=delay) == stop


def test_better_means_strictly_more_and_anything_beats_undefined():
    assert improves(0.2, 0.1)
    assert not improves(0.1, 0.1)
    assert improves(0.0, NAN)
    assert not improves(NAN, 0.0)
    assert not improves(NAN, NAN)


def test_the_last_epoch_without_improvement_still_completes(tmp_path):
    training = config(number_of_epochs=3, early_stopping_patience=2, early_stopping_delay=0)
    _, result = train(tmp_path, training, task=scripted([0.5] * 3)(classifier(), training, CLASSES))
    assert result.status == "completed"


def test_an_undefined_metric_is_null_in_the_file_and_never_best_of_several(tmp_path):
    training = config(number_of_epochs=3)
    _, result = train(tmp_path, training, task=scripted([NAN, 0.4, NAN])(classifier(), training, CLASSES))
    assert [line["accuracy"] for line in evaluations(tmp_path)] == [None, 0.4, None]
    assert result.best_epoch == 2


def test_losses_are_means_over_steps_and_over_windows():
    meter = LossMeter()
    for value in (1.0, 3.0):
        meter.add({"a": torch.tensor(value, requires_grad=True), "b": torch.tensor(2 * value)})
    assert meter.recent() == {"a": 2.0, "b": 4.0}
    meter.add({"a": torch.tensor(8.0), "b": torch.tensor(0.0)})
    assert meter.recent() == {"a": 8.0, "b": 0.0}
    assert meter.recent() == {}
    assert meter.mean() == {"a": 4.0, "b": 8.0 / 3}
    assert meter.mean() == {}


def test_the_short_last_window_of_an_accumulation_is_a_mean_over_its_own_batches(tmp_path):
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "number_of_epochs": 1}
    data = batches(3)

    def linear():
        torch.manual_seed(0)
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), multilabel=False)

    together = Batch(
        images=torch.cat([batch.images for batch in data[:2]]),
        targets=Targets(labels=torch.cat([batch.targets.labels for batch in data[:2]])),
        keys=[""] * 8,
    )
    accumulated, _ = train(tmp_path / "a", config(gradient_accumulation_step=2, **plain), model=linear(), data=data)
    at_once, _ = train(tmp_path / "b", config(**plain), model=linear(), data=[together, data[2]])
    for mine, other in zip(accumulated.model.parameters(), at_once.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_time_that_is_over_after_an_evaluation_costs_no_further_step(tmp_path):
    class Slow(MulticlassTask):
        def compute(self):
            next(callback for callback in self.trainer.callbacks if isinstance(callback, Ending)).seconds = 0.0
            return super().compute()

    training = config(number_of_epochs=5)
    _, result = train(tmp_path, training, task=Slow(classifier(), training, CLASSES))
    assert (result.status, result.epochs) == ("timeout", 1)
    assert [line["step"] for line in evaluations(tmp_path)] == [4]


def test_an_interruption_that_will_not_wait_keeps_the_best_so_far(tmp_path):
    class Impatient(MulticlassTask):
        def validation_step(self, batch, index):
            super().validation_step(batch, index)
            if self.current_epoch == 1:
                raise KeyboardInterrupt

    training = config()
    task, result = train(tmp_path, training, task=Impatient(classifier(), training, CLASSES))
    assert (result.status, result.best_epoch) == ("interrupted", 1)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in task.model.state_dict().items())
    assert len(task.scores) == 8
    with torch.no_grad():
        task.collect(task.model.eval().predict(batches(1)[0]), batches(1)[0])
    task.compute()
    assert len(task.scores) == 4  # nothing of the evaluation that was cut off


def test_a_loss_that_turns_nan_is_caught_in_its_step(tmp_path):
    data = batches(4)
    model = classifier()
    original = model.losses

    def losses(batch):
        found = original(batch)
        return {"classification": found["classification"] * (NAN if batch.keys[0].startswith("2") else 1)}

    model.losses = losses
    with pytest.raises(TrainingError, match=r"classification loss is nan in epoch 1, by step 3, .* at 0\.0"):
        train(tmp_path, model=model, data=data)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_a_loss_that_is_nan_before_the_first_step_is_no_matter_of_the_learning_rate(tmp_path):
    model = classifier()
    original = model.losses
    model.losses = lambda batch: {"classification": original(batch)["classification"] * NAN}
    with pytest.raises(TrainingError, match=r"loss is nan before the first step, .* model\.weights if any were given"):
        train(tmp_path, model=model)


def test_memory_that_is_too_small_is_one_line_with_the_way_out(tmp_path):
    model = classifier()

    def losses(batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    model.losses = losses
    with pytest.raises(
        TrainingError, match=r"memory is too small for training\.training_batch_size=4, even with one picture"
    ):
        train(tmp_path, model=model)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_train(precision, tmp_path):
    trainer = TrainerConfig(accelerator="cpu", precision=precision)
    try:
        check_trainer(trainer)
    except ConfigError as error:
        pytest.skip(str(error))
    task, result = train(tmp_path, config(number_of_epochs=1), trainer=trainer)
    assert result.status == "completed"
    assert task.model.network[4].weight.dtype == (torch.float64 if precision == "64-true" else torch.float32)


@pytest.mark.parametrize(
    ("trainer", "answer"),
    [
        (TrainerConfig(devices=2, num_nodes=2, accelerator="cpu"), "MASTER_ADDR, MASTER_PORT, NODE_RANK are not set"),
        (TrainerConfig(accelerator="cpu", precision="16-mixed"), r"16-mixed: it needs a GPU"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(trainer, answer):
    with pytest.raises(ConfigError, match=answer):
        check_trainer(trainer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"accelerator=cuda: torch .* finds none on this machine"):
        check_trainer(TrainerConfig(accelerator="cuda"))


def test_bf16_needs_a_processor_that_has_it():
    assert computes_bf16("flags : fpu avx512f avx512_bf16")
    assert computes_bf16("Features : asimd bf16 i8mm")
    assert not computes_bf16("flags : fpu avx2 avx512f")
    assert computes_bf16(None)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit_watched(folder, monkeypatch, stream, *, quiet=False):
    monkeypatch.setattr(sys, "stderr", stream)
    training = config(number_of_epochs=2)
    fit(
        MulticlassTask(classifier(), training, CLASSES),
        loader(batches()),
        loader(batches(2, seed=1)),
        training=training,
        trainer=CPU,
        limits=LimitsConfig(),
        folder=folder,
        quiet=quiet,
    )
    return stream.getvalue()


def test_a_terminal_sees_epochs_time_left_and_loss(tmp_path, monkeypatch):
    shown = fit_watched(tmp_path, monkeypatch, Terminal())
    assert "epoch 1 of 2" in shown
    assert "/8 [" in shown
    assert "loss=" in shown


def test_neither_a_quiet_run_nor_a_file_gets_a_bar_or_any_word_of_the_trainer(tmp_path, monkeypatch):
    assert fit_watched(tmp_path / "quiet", monkeypatch, Terminal(), quiet=True) == ""
    assert fit_watched(tmp_path / "file", monkeypatch, io.StringIO()) == ""


def test_each_evaluation_is_a_line_in_the_log(tmp_path, caplog, monkeypatch):
    log = logging.getLogger("lightning_automl_vision")
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO, logger=log.name)
    train(tmp_path, config(number_of_epochs=2))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("epoch 1 of 2: accuracy ")
    assert "(best), loss " in lines[0]
    assert len(lines) == 2


def test_trackers_get_steps_and_evaluations(tmp_path):
    node = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(tmp_path), "name": "csv", "version": ""}
    training = config(number_of_epochs=2)
    fit(
        MulticlassTask(classifier(), training, CLASSES),
        loader(batches(4)),
        loader(batches(2, seed=1)),
        training=training,
        trainer=TrainerConfig(accelerator="cpu", log_every_n_steps=2),
        limits=LimitsConfig(),
        folder=tmp_path,
        loggers=make_trackers({"csv": node}),
    )
    header, *rows = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    table = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    assert [row["step"] for row in table if row["accuracy"]] == ["4", "8"]
    assert {"1", "5"} <= {row["step"] for row in table if not row["accuracy"]}
    assert all(float(row["loss"]) > 0 for row in table)


def test_tensorboard_writes_into_the_folder(tmp_path):
    target = "lightning.pytorch.loggers.TensorBoardLogger"
    [tracker] = make_trackers(
        {"tensorboard": {"_target_": target, "save_dir": str(tmp_path), "name": "tensorboard", "version": ""}}
    )
    tracker.log_metrics({"loss": 1.0}, step=1)
    tracker.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(("name", "target"), [("mlflow", "MLFlowLogger"), ("wandb", "WandbLogger")])
def test_a_tracker_that_is_not_installed_is_one_line_with_the_command(name, target):
    try:
        __import__(name)
    except ModuleNotFoundError:
        with pytest.raises(ConfigError, match=rf"logger={name}: .*pip install 'lightning-automl-vision\[{name}\]'"):
            make_trackers({name: {"_target_": f"lightning.pytorch.loggers.{target}"}})
    else:
        pytest.skip(f"{name} is installed")


def test_last_checkpoint_holds_plain_types_also_with_an_average(tmp_path):
    train(tmp_path, config(ema_decay=0.5, number_of_epochs=2))
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert json.dumps(torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["metrics"])


def test_weights_that_fill_little_of_the_model_are_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning_automl_vision"), "propagate", True)
    torch.save({"0.weight": classifier(seed=4).network[0].weight.detach()}, tmp_path / "w.pt")
    load_start_weights(classifier(), str(tmp_path / "w.pt"))
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "1 of 9 tensors loaded; these start anew: 0.bias, 1.weight" in record.getMessage()


def test_weights_of_a_run_fill_the_next_one(tmp_path):
    task, _ = train(tmp_path)
    for name in ("best", "last"):
        model = classifier(seed=9)
        load_start_weights(model, str(tmp_path / "checkpoints" / f"{name}.ckpt"))
        assert model.network[4].weight.shape == task.model.network[4].weight.shape
        assert not torch.equal(model.network[4].weight, classifier(seed=9).network[4].weight)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (123, "2:03"), (3723, "1:02:03")])
def test_spans_read_like_a_clock(seconds, text):
    assert span(seconds) == text
