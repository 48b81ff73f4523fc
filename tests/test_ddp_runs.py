"""Trainings of several processes that accumulate, clip, average, end, and run out of memory, as one process would."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from pair import in_several, in_two
from test_memory import PLAIN, out_of_memory, roomy, without_norms
from test_training import CLASSES, batches, config, evaluations, loader
from torch import nn

from lightning_automl_vision.data.sampling import EpochSampler
from lightning_automl_vision.data.shares import Share
from lightning_automl_vision.errors import TrainingError
from lightning_automl_vision.models import Batch, Classifier, Targets
from lightning_automl_vision.search.watching import STOP, TRIAL_FOLDER
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig, TrainingConfig
from lightning_automl_vision.tasks.classification import MulticlassTask
from lightning_automl_vision.training.fit import FitResult, fit
from lightning_automl_vision.training.gathering import share
from lightning_automl_vision.training.local_ranks import only_lost_another
from lightning_automl_vision.training.resuming import find
from lightning_automl_vision.training.strategy import for_processes

OFTEN = 1e-9  # minutes: a checkpoint after each step
Weights = dict[str, np.ndarray]


class Summed(Classifier):
    summed_over_images = True


def summed() -> Classifier:
    model = without_norms()
    return Summed(model.network, multilabel=False)


def normed() -> Classifier:
    """Norms, and draws in each step."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3)
    )
    return Classifier(network, multilabel=False)


def weights_of(task: MulticlassTask) -> Weights:
    """Of the best evaluation."""
    return {name: value.numpy().copy() for name, value in task.model.state_dict().items()}


class Watch(L.Callback):
    """Does ``what`` before the batch of this number, counted over all epochs, in the process of this rank."""

    def __init__(self, rank: int, batch: int, what: Any) -> None:
        self._rank, self._left, self._what = rank, batch, what

    def on_train_batch_start(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0 and share().rank == self._rank:
            self._what()


class Counted(L.Callback):
    """The steps of a training, whoever judges its best epoch again."""

    steps = -1

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.steps = trainer.global_step


class Numbered(torch.utils.data.DataLoader):  # type: ignore[type-arg]
    """Batches of which the first of an epoch can be left out, as a run that goes on does."""

    begun, epoch = (0, 0), 0

    def __init__(self, made: list[Any]) -> None:
        super().__init__(made, batch_size=None)  # type: ignore[arg-type]
        self.made = made

    def begin_at(self, epoch: int, number: int) -> None:
        self.begun, self.epoch = (epoch, number), epoch

    def __iter__(self) -> Any:
        first = self.begun[1] if self.begun[0] == self.epoch else 0
        self.epoch += 1
        return iter(self.made[first:])


def trained(
    folder: Path,
    training: TrainingConfig,
    model: Classifier,
    made: list[Any],
    *,
    minutes: float = 10.0,
    callbacks: tuple[L.Callback, ...] = (),
    validation: int = 3,
    resume: bool = False,
    **asked: Any,
) -> tuple[MulticlassTask, FitResult]:
    """This process' own batches, and of the batches to validate on its share."""
    own, processes, _ = share()
    task = MulticlassTask(model, training, CLASSES)
    torch.manual_seed(1)
    judged = batches(validation, seed=1)
    for number, batch in enumerate(judged):
        object.__setattr__(batch, "indices", [*range(number * 4, number * 4 + 4)])
    data = Numbered(made)
    resumed = find(folder, "tensors") if resume else None
    if resumed is not None:
        data.begin_at(resumed.epochs, resumed.batches)
    result = fit(
        task,
        data,
        loader(judged[own::processes]),
        training=training,
        trainer=TrainerConfig(accelerator="cpu", devices=processes, **asked),
        limits=LimitsConfig(timeout_minutes=minutes),
        folder=folder,
        callbacks=callbacks,
        quiet=True,
        data="tensors",
        resumed=resumed,
    )
    return task, result


def both(made: list[Any]) -> list[Any]:
    """Each two batches as one."""
    return [
        Batch(
            images=torch.cat([first.images, second.images]),
            targets=Targets(labels=torch.cat([first.targets.labels, second.targets.labels])),
            keys=[*first.keys, *second.keys],
        )
        for first, second in zip(made[::2], made[1::2], strict=True)
    ]


# Steps


STEPS: dict[str, dict[str, Any]] = {
    "accumulated and clipped": {"gradient_accumulation_step": 2, "gradient_clip": 0.05},
    "averaged": {"optimizer": "adamw", "ema_decay": 0.9, "ema_ramp_steps": 2, "gradient_clip": 1.0},
    "warm-up": {
        "learning_rate_scheduler": "linear",
        "nominal_batch_size": 32,
        "warmup_epochs": 0.1,
        "weight_decay": 0.01,
        "ema_decay": 0.9,
    },
}
USUAL = {**PLAIN, "number_of_epochs": 2, "early_stopping": False}
KINDS = (without_norms, summed)


def steps(folder: Path) -> dict[str, tuple[Weights, list[float]]]:
    """Every kind of step, on every second batch of eight."""
    found = {}
    for name, values in STEPS.items():
        for kind in KINDS:
            here = folder / name / kind.__name__
            asked = for_processes(config(**{**USUAL, **values}), TrainerConfig())
            task, _ = trained(here, asked, kind(), batches(8)[share().rank :: 2])
            found[f"{name}, {kind.__name__}"] = (weights_of(task), [line["loss"] for line in evaluations(here)])
    return found


def test_steps_of_two_processes_are_those_of_one_with_batches_as_large_as_theirs_together(tmp_path: Path) -> None:
    ours, others = in_two(steps, tmp_path / "two", folder=tmp_path)
    for name, values in STEPS.items():
        for kind in KINDS:
            here, key = tmp_path / "one" / name / kind.__name__, f"{name}, {kind.__name__}"
            asked = config(**{**USUAL, **values, "training_batch_size": 8})
            task, _ = trained(here, asked, kind(), both(batches(8)))
            assert ours[key][1] == pytest.approx([line["loss"] for line in evaluations(here)], rel=1e-5), key
            for weight, value in weights_of(task).items():
                np.testing.assert_array_equal(ours[key][0][weight], others[key][0][weight], err_msg=key)
                np.testing.assert_allclose(ours[key][0][weight], value, rtol=0, atol=2e-6, err_msg=key)


def test_a_nominal_batch_is_that_of_all_processes(tmp_path: Path) -> None:
    asked = config(nominal_batch_size=64), TrainerConfig(scale_learning_rate=True)
    first, second = in_two(for_processes, *asked, folder=tmp_path)
    assert first == second
    assert (first.nominal_batch_size, first.learning_rate) == (32, 0.1)


# More processes


@pytest.mark.parametrize(("count", "size"), [(1, 3), (2, 3), (2, 5), (7, 4)])
def test_processes_have_equally_many_draws_of_however_few_images(count: int, size: int) -> None:
    parts = [[*EpochSampler(count, shuffle=True, seed=3, share=Share(rank, size))] for rank in range(size)]
    assert {len(part) for part in parts} == {-(-count // size)}
    drawn = [(draw.image, draw.repeat) for part in parts for draw in part]
    assert len({*drawn}) == len(drawn), "what comes twice is seen otherwise"
    assert {image for image, _ in drawn} == {*range(count)}


# Ends


GOES_ON = {
    "number_of_epochs": 4,
    "early_stopping": False,
    "checkpoint_minutes": OFTEN,
    "gradient_accumulation_step": 2,
    "ema_decay": 0.5,
}
BLOWS = {"terminated": (1, signal.SIGTERM), "interrupted": (0, signal.SIGINT)}


def end(folder: Path, *, values: Any = None, **more: Any) -> Any:
    """How a training ended for this process."""
    processes, rank, counted = share().size, share().rank, Counted()
    made = batches(5 * processes)[rank::processes]
    callbacks = (counted, *more.pop("callbacks", ()))
    asked = config(**{**GOES_ON, **(values or {})})
    task, result = trained(folder, asked, normed(), made, callbacks=callbacks, **more)
    return (result.status, result.reason, result.epochs, counted.steps), weights_of(task)


def digits(folder: Path) -> list[Any]:
    return [{**line, "seconds": 0} for line in evaluations(folder)]


def gone_on(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"whole": (*end(folder / "whole"), digits(folder / "whole"))}
    for name, (rank, number) in BLOWS.items():
        blow = Watch(rank, 8, lambda number=number: os.kill(os.getpid(), number))
        found[name] = end(folder / name, callbacks=(blow,))
        found[f"{name}, gone on"] = (*end(folder / name, resume=True), digits(folder / name))
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_all_end_at_the_same_step_whoever_is_asked_and_go_on_to_the_same_digits(size: int, tmp_path: Path) -> None:
    """Also of three, whose sums depend on the order in which they are added."""
    for found in in_several(size, gone_on, tmp_path, folder=tmp_path):
        told, weights, lines = found["whole"]
        assert told == ("completed", None, 4, 12)
        for name in BLOWS:
            assert found[name][0] == ("interrupted", None, 2, 5), "the step is done, and no more"
            assert found[f"{name}, gone on"][0] == told
            assert found[f"{name}, gone on"][2] == lines
            for weight, value in found[f"{name}, gone on"][1].items():
                np.testing.assert_array_equal(value, weights[weight], err_msg=f"{name}, {weight}")


def limits(folder: Path) -> list[Any]:
    second = share().rank == 1
    timeout, _ = end(folder / "timeout", minutes=0.0 if second else 10.0, values={"gradient_accumulation_step": 1})
    patience = {"early_stopping": True, "early_stopping_patience": 1, "early_stopping_delay": 0, "learning_rate": 1e-12}
    early, _ = end(folder / "early", values=patience)
    os.environ[TRIAL_FOLDER] = str(folder)
    pruned, _ = end(folder / "pruned")
    return [timeout, early, pruned]


def test_what_ends_one_of_them_ends_all_at_the_same_step(tmp_path: Path) -> None:
    """A limit of time that only the second has reached, patience, and whoever compares trials."""
    (tmp_path / STOP).write_text("others are better\n")
    first, second = in_two(limits, tmp_path, folder=tmp_path / "meeting")
    assert first == second
    assert first[0] == ("timeout", None, 1, 1)
    assert first[1] == ("stopped_early", None, 2, 6)
    assert first[2] == ("pruned", "others are better", 1, 3)


def at_once(folder: Path) -> str:
    blow = Watch(0, 3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    try:
        end(folder, callbacks=(blow,))
    except (KeyboardInterrupt, RuntimeError) as error:
        return f"{type(error).__name__} {error}"
    return "ended in good order"


def test_a_second_ctrl_c_waits_for_nobody(tmp_path: Path) -> None:
    """What the others are in the middle of is not answered any more."""
    first, second = in_two(at_once, tmp_path, folder=tmp_path)
    assert first == "KeyboardInterrupt "
    assert second.startswith("RuntimeError")
    assert only_lost_another(second)


# Memory


def hindered(folder: Path) -> dict[str, Any]:
    """The second has less memory, in a batch of its own or in one of several that make a step."""
    second = share().rank == 1
    found: dict[str, Any] = {}
    for name, sizes, most, values in (
        ("forward", [6, 6, 6], 2, {}),
        ("backward", [6, 6, 6], 2, {}),
        ("accumulated", [4, 4, 4, 8, 4, 4], 6, {"gradient_accumulation_step": 2}),
    ):
        made = [batches(1, size, seed=10 * number + second)[0] for number, size in enumerate(sizes)]
        asked = config(**{**USUAL, "training_batch_size": max(sizes), **values})
        for kind, limit in (("whole", 99), ("hindered", most if second else 99)):
            model = roomy(without_norms(), limit, forward=name != "backward")
            here = folder / name / kind
            task, _ = trained(here, asked, model, made, callbacks=(), validation=2)
            losses = [line["loss"] for line in evaluations(here)]
            found[f"{name}, {kind}"] = (task.sizes.training, int(task.trainer.global_step), losses, weights_of(task))
    return found


def test_memory_that_is_too_small_for_one_halves_what_all_compute_at_once(tmp_path: Path) -> None:
    both_found = in_two(hindered, tmp_path, folder=tmp_path)
    for found in both_found:
        for name, size in (("forward", 2), ("backward", 2), ("accumulated", 4)):
            whole, halved = found[f"{name}, whole"], found[f"{name}, hindered"]
            assert (whole[0], halved[0]) == (None, size)
            assert halved[1] == whole[1] == 6
            assert halved[2] == pytest.approx(whole[2], rel=1e-5)
            for weight, value in halved[3].items():
                np.testing.assert_allclose(value, whole[3][weight], rtol=0, atol=2e-6, err_msg=f"{name}, {weight}")
    for weight, value in both_found[0]["forward, hindered"][3].items():
        np.testing.assert_array_equal(value, both_found[1]["forward, hindered"][3][weight])


def without_room(folder: Path, most: int, first: int) -> str:
    """What the error says where, from a batch on, the memory of the second has room for so many pictures."""
    model, seen = without_norms(), []
    original = model.losses

    def losses(batch: Any) -> Any:
        seen.append(len(batch))
        if share().rank == 1 and len(seen) >= first and len(batch) > most:
            raise out_of_memory()
        return original(batch)

    model.losses = losses  # type: ignore[method-assign]
    try:
        trained(folder, config(**USUAL), model, batches(6)[share().rank :: 2])
    except (TrainingError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_memory_without_room_for_one_picture_is_told_alike(tmp_path: Path) -> None:
    first, second = in_two(without_room, tmp_path, 0, 1, folder=tmp_path)
    assert first == second
    assert "too small for training.training_batch_size=4, even with one picture at a time" in first


def test_memory_that_ends_where_gradients_are_on_their_way_names_the_batch_to_give(tmp_path: Path) -> None:
    """In a batch that asks no more than those before nobody could do the step again."""
    first, second = in_two(without_room, tmp_path, 2, 3, folder=tmp_path)
    assert second.startswith("TrainingError: The memory is too small for training.training_batch_size=4: CUDA")
    assert "Give smaller batches, such as training.training_batch_size=2" in second
    assert only_lost_another(first)


def limited(folder: Path) -> tuple[int | None, int]:
    """The address space of the second ends within its first batch."""
    torch.set_num_threads(1)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.Sigmoid(), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
    )
    model, seen = Classifier(network, multilabel=False), []
    original = model.losses

    def made(size: int) -> Any:
        images = torch.randint(0, 255, (size, 3, 256, 256), dtype=torch.uint8)
        return Batch(images=images, targets=Targets(labels=torch.arange(size) % 3), keys=["0"] * size)

    def losses(batch: Any) -> Any:
        if not seen and share().rank == 1:
            original(made(1))["classification"].backward()  # whatever is made only once
            model.zero_grad()
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (160 << 20), used + (160 << 20)))
        seen.append(len(batch))
        return original(batch)

    model.losses = losses  # type: ignore[method-assign]
    task, _ = trained(folder, config(training_batch_size=16, number_of_epochs=1), model, [made(16), made(16)])
    return task.sizes.training, int(task.trainer.global_step)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to the limit")
def test_a_real_limit_of_one_process_halves_the_batches_of_both(tmp_path: Path) -> None:
    first, second = in_two(limited, tmp_path, folder=tmp_path)
    assert first == second
    assert first[0] in (1, 2, 4)
    assert first[1] == 2
