"""A memory that is too small: batches are computed in pieces, and what is learnt stays what it was."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_folders
from test_training import CLASSES, batches, classifier, config, evaluations, loader, train
from torch import nn

import lightning_automl_vision as lav
from lightning_automl_vision import api
from lightning_automl_vision.errors import ConfigError, TrainingError
from lightning_automl_vision.keys import Key
from lightning_automl_vision.models import Classifier
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig
from lightning_automl_vision.tasks.classification import MulticlassTask
from lightning_automl_vision.training import probing
from lightning_automl_vision.training.fit import fit
from lightning_automl_vision.training.memory import (
    BatchSizes,
    evaluated,
    forget_failed,
    go_without_code,
    halved,
    in_pieces,
    is_out_of_memory,
)
from lightning_automl_vision.training.probing import Cost, fitting_batch_size, largest_that_fits, sizes_to_try
from lightning_automl_vision.training.resuming import find
from lightning_automl_vision.training.session import checked_transform

PLAIN = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


def out_of_memory():
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def without_norms(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    return Classifier(network, multilabel=False)


def roomy(model, most, *, forward=True, errors=out_of_memory):
    """The same model where the memory has room for so many images, as seen on the way there or back."""
    original, asked = model.losses, []

    def losses(batch):
        asked.append(len(batch))
        found = original(batch)
        if len(batch) > most:
            if forward:
                raise errors()
            found["classification"].register_hook(lambda _: (_ for _ in ()).throw(errors()))
        return found

    model.losses = losses
    model.asked = asked
    return model


def weights(task):
    return {name: value.clone() for name, value in task.model.state_dict().items()}


# Pieces


def test_pieces_are_as_few_and_as_equal_as_can_be():
    (batch,) = batches(1, 10)
    assert [len(piece) for piece in in_pieces(batch, 4)] == [4, 3, 3]
    assert [key for piece in in_pieces(batch, 4) for key in piece.keys] == list(batch.keys)
    assert in_pieces(batch, 10) == [batch] == in_pieces(batch, None)
    assert [halved(size) for size in (16, 5, 2)] == [8, 3, 1]


@pytest.mark.parametrize("task", ["image_object_detection", "image_instance_segmentation"])
def test_objects_stay_with_their_pictures(task, toy_batch):
    batch = toy_batch(task, images=5)
    pieces = in_pieces(batch, 2)
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    assert tuple(count for piece in pieces for count in piece.targets.counts) == batch.targets.counts
    for piece in pieces:
        assert len(piece.targets.boxes) == len(piece.targets.labels) == sum(piece.targets.counts)
    assert torch.equal(torch.cat([piece.targets.boxes for piece in pieces]), batch.targets.boxes)
    if task == "image_instance_segmentation":
        sizes = [(64, 64)]
        masks = [mask for piece in pieces for mask in piece.targets.masks(sizes * len(piece))]
        assert all(map(torch.equal, masks, batch.targets.masks(sizes * 5)))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (out_of_memory(), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_a_lack_of_memory_is_one(error, expected):
    assert is_out_of_memory(error) == expected


# Training on


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_batch_in_pieces_teaches_what_the_whole_batch_does(forward, accumulated, tmp_path):
    training = config(**PLAIN, training_batch_size=6, gradient_accumulation_step=accumulated)
    data = batches(5, 6)
    whole, _ = train(tmp_path / "whole", training, model=without_norms(), data=data)
    model = roomy(without_norms(), 2, forward=forward)
    pieces, result = train(tmp_path / "pieces", training, model=model, data=data)
    assert result.status == "completed"
    assert pieces.sizes.training == 2
    assert max(model.asked[-20:]) == 2
    for name, value in weights(whole).items():
        assert torch.allclose(weights(pieces)[name], value, atol=1e-6), name
    for one, other in zip(evaluations(tmp_path / "whole"), evaluations(tmp_path / "pieces"), strict=True):
        assert other["step"] == one["step"]
        assert other["learning_rate"] == one["learning_rate"]
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-6)


def test_a_model_that_sums_over_images_learns_the_same_in_pieces(tmp_path):
    def summed(most):
        model = roomy(without_norms(), most)
        model.summed_over_images = True
        return model

    training = config(**PLAIN, training_batch_size=6, learning_rate=0.001)
    whole, _ = train(tmp_path / "whole", training, model=summed(6), data=batches(3, 6))
    pieces, _ = train(tmp_path / "pieces", training, model=summed(4), data=batches(3, 6))
    assert pieces.sizes.training == 3
    for name, value in weights(whole).items():
        assert torch.allclose(weights(pieces)[name], value, atol=1e-6), name


def test_a_step_that_failed_leaves_no_trace(tmp_path):
    """Norms' statistics, dropout and losses: the digits are those of a run that never tried the larger batch."""

    def dropping():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 3)
        )
        return Classifier(network, multilabel=False)

    training = config(gradient_accumulation_step=2)
    torch.manual_seed(1)
    begun = MulticlassTask(dropping(), training, CLASSES)
    begun.sizes.training = 2
    train(tmp_path / "begun", training, task=begun, data=batches(5))
    torch.manual_seed(1)
    failed, _ = train(tmp_path / "failed", training, model=roomy(dropping(), 2, forward=False), data=batches(5))
    assert all(torch.equal(weights(failed)[name], value) for name, value in weights(begun).items())
    lines = [[{**line, "seconds": 0} for line in evaluations(tmp_path / name)] for name in ("begun", "failed")]
    assert lines[0] == lines[1]


class Wayward(nn.Module):
    """Changes everything that a step may change on the way to its loss."""

    def __init__(self):
        super().__init__()
        self.register_buffer("changed", torch.zeros(3))
        self.register_buffer("another", torch.zeros(()))
        self.register_buffer("strided", torch.zeros(4, 4).t()[::2])
        self.register_buffer("last", torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last))
        self.register_buffer("counted", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("later", None)
        self.same = nn.Module()
        self.same.register_buffer("changed", self.changed)

    def forward(self, images):
        drawn = float(torch.rand(()) + np.random.rand() + random.random())
        self.changed += drawn
        self.another = self.another + drawn
        self.strided += np.random.standard_normal()
        self.last += drawn
        self.counted += len(images)
        self.later = torch.full((2,), drawn)
        return images


def test_whatever_a_step_changes_is_as_it_was_when_it_is_done_again(tmp_path):
    def model():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return Classifier(nn.Sequential(Wayward(), nn.Flatten(), nn.LazyLinear(3)), multilabel=False)

    begun, failed = [], []
    for most, changes in ((4, begun), (2, failed)):
        made = roomy(model(), most)
        made.network(torch.zeros(1, *batches(1)[0].images.shape[1:]))
        task = MulticlassTask(made, config(), CLASSES)
        task.sizes.training = 2 if most == 4 else None
        train(tmp_path / str(most), config(), task=task, data=batches(3, 4))
        changes += [*task.model.state_dict().values(), torch.tensor([np.random.rand(), random.random()])]
        changes.append(torch.rand(()))
    assert len(begun) == len(failed) == 11
    assert all(map(torch.equal, begun, failed))


def test_what_is_done_is_told_in_one_line(tmp_path, caplog):
    model, halfway = without_norms(), []
    original = model.losses

    def losses(batch):
        halfway.append(len(batch))
        if len(halfway) > 5 and len(batch) > 2:
            raise out_of_memory()
        return original(batch)

    model.losses = losses
    with caplog.at_level(logging.WARNING, logger="lightning_automl_vision"):
        task, result = train(tmp_path, model=model)
    assert result.status == "completed"
    assert [record.getMessage() for record in caplog.records] == [
        "The memory is too small to train on 4 images at once: from step 6 on it is 2 at a time, with their gradients"
        " added up, so that a step learns from the same images as before."
    ]
    assert evaluations(tmp_path)[-1]["step"] == 12
    assert halfway[:8] == [4, 4, 4, 4, 4, 4, 2, 2]
    assert task.sizes == BatchSizes(training=2)


def test_a_memory_without_room_for_one_picture_is_one_line(tmp_path):
    with pytest.raises(TrainingError, match="training_batch_size=4, even with one picture at a time") as told:
        train(tmp_path, model=roomy(classifier(), 0))
    assert "Another may have room if it begins with training.training_batch_size=1 or =auto." in str(told.value)


def test_what_is_left_of_a_failed_backward_pass_is_let_go_of():
    """Without it, torch keeps what is queued on this thread, and all that hangs on it."""
    start = torch.ones(1, requires_grad=True)
    held = start * 1
    queued, last = held * held, held.clone()
    last.register_hook(lambda _: (_ for _ in ()).throw(out_of_memory()))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        (queued + last).backward()
    kept = weakref.ref(held)
    del held, queued, last
    assert kept() is not None
    forget_failed()
    assert kept() is None


def test_onednn_is_not_asked_again_once_it_had_no_memory_for_its_code(caplog):
    try:
        with caplog.at_level(logging.WARNING, logger="lightning_automl_vision"):
            for message, used in (("std::bad_alloc", True), ("could not create a primitive", False)):
                go_without_code(RuntimeError(message))
                assert torch.backends.mkldnn.enabled is used
    finally:
        torch.backends.mkldnn.enabled = True
    assert len(caplog.records) == 1


def test_norms_that_need_two_pictures_are_the_least_that_can_be_done(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(TrainingError, match=r"training_batch_size=4, even with 2 pictures at a time"):
        train(tmp_path, model=roomy(Classifier(network, multilabel=False), 1))


def test_an_error_of_another_kind_stands(tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(tmp_path, model=roomy(classifier(), 2, errors=lambda: RuntimeError("shapes cannot be multiplied")))


def test_a_step_whose_weights_have_begun_to_change_is_not_done_again(tmp_path, monkeypatch):
    def step(self, closure=None):
        closure()
        raise out_of_memory()

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(TrainingError, match=r"memory is too small for training\.training_batch_size=4: CUDA out of"):
        train(tmp_path)


def test_a_run_that_goes_on_begins_with_the_smaller_batch(tmp_path):
    training = config(number_of_epochs=4)

    def attempt(model):
        task = MulticlassTask(model, training, CLASSES)
        fit(
            task,
            loader(batches()),
            loader(batches(2, seed=1)),
            training=training,
            trainer=TrainerConfig(accelerator="cpu"),
            limits=LimitsConfig(),
            folder=tmp_path,
            quiet=True,
            data="tensors",
            resumed=find(tmp_path, "tensors"),
        )
        return task

    class Killed(BaseException):
        pass

    killed = roomy(classifier(), 2)
    halving = killed.losses

    def losses(batch):
        if killed.asked.count(2) == 2 * 4 * 2:  # two epochs of four batches, each in two pieces
            raise Killed
        return halving(batch)

    killed.losses = losses
    with pytest.raises(Killed):
        attempt(killed)
    going_on = roomy(classifier(), 2)
    task = attempt(going_on)
    assert killed.asked[0] == 4
    assert going_on.asked == [2] * (2 * 4 * 2)
    assert task.sizes == BatchSizes(training=2)


# Evaluating


def test_an_evaluation_is_done_in_pieces_with_the_same_answers(tmp_path, caplog):
    def asked(most):
        model = classifier()
        original = model.predict

        def predict(batch):
            if len(batch) > most:
                raise out_of_memory()
            return original(batch)

        model.predict = predict
        return model

    whole, _ = train(tmp_path / "whole", model=asked(8))
    pieces, _ = train(tmp_path / "pieces", model=asked(1))
    assert pieces.sizes == BatchSizes(validation=1)
    assert pieces.metrics == pytest.approx(dict(whole.metrics), nan_ok=True)
    told = [record.getMessage() for record in caplog.records if "to evaluate" in record.getMessage()]
    assert told == [
        "The memory is too small to evaluate 4 images at once: from now on it is 2 at a time.",
        "The memory is too small to evaluate 2 images at once: from now on it is 1 at a time.",
    ]
    with pytest.raises(TrainingError, match=r"too small for training\.validation_batch_size, even with one picture"):
        train(tmp_path / "none", model=asked(0))


def test_other_errors_of_an_evaluation_stand():
    def broken(_):
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        evaluated(broken, batches(1)[0], BatchSizes())


# A real limit


_LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_training import MulticlassTask, TrainerConfig, LimitsConfig, CLASSES, config, fit, loader
from lightning_automl_vision.models import Batch, Classifier, Targets
from torch import nn

def made(size):
    images = torch.randint(0, 255, (size, 3, 256, 256), dtype=torch.uint8)
    return Batch(images=images, targets=Targets(labels=torch.arange(size) % 3), keys=[str(n) for n in range(size)])

torch.set_num_threads(1)
network = nn.Sequential(
    nn.Conv2d(3, 32, 1), nn.Sigmoid(), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
)
model = Classifier(network, multilabel=False)
original = model.losses
asked = []

def losses(batch):
    if not asked:
        one = made(1)
        original(one)["classification"].backward()  # whatever is made only once
        model.zero_grad()
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = address_space + {room}
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    asked.append(len(batch))
    return original(batch)

model.losses = losses
training = config(training_batch_size=16, validation_batch_size=4, number_of_epochs=1)
task = MulticlassTask(model, training, CLASSES)
result = fit(task, loader([made(16), made(16)]), loader([made(2)]), training=training,
             trainer=TrainerConfig(accelerator="cpu"), limits=LimitsConfig(), folder=Path({folder!r}), quiet=True)
print(json.dumps([result.status, task.sizes.training, asked, int(task.trainer.global_step)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to the limit")
@pytest.mark.parametrize("room", [160, *(pytest.param(room, marks=pytest.mark.slow) for room in (120, 200, 240, 280))])
def test_a_real_limit_of_memory_halves_the_batch_until_it_fits(tmp_path, room):
    """A picture's activations take some 25 MB: 16 of them do not fit, a few do."""
    script = _LIMITED.format(tests=str(Path(__file__).parent), room=room << 20, folder=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    status, size, asked, steps = json.loads(ended.stdout.splitlines()[-1])
    assert (status, steps) == ("completed", 2)
    assert size in (1, 2, 4, 8)
    assert asked[0] == 16
    assert sum(asked[-16 // size :]) == 16
    assert "The memory is too small to train on 16 images at once: from step 1 on it is 8 at a time" in ended.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_real_limit_of_a_gpu_halves_the_batch_until_it_fits(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    network(torch.zeros(1, 3, 256, 256))
    data = [batch.map(lambda t: t.repeat(1, 1, 32, 32) if t.dim() == 4 else t) for batch in batches(2, 64)]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        task, result = train(
            tmp_path,
            config(number_of_epochs=1, training_batch_size=64),
            model=Classifier(network, multilabel=False),
            data=data,
            validation=data[:1],
            trainer=TrainerConfig(accelerator="gpu"),
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.status == "completed"
    assert task.sizes.training in (4, 8, 16, 32)


# A batch size that is found by trying


def test_a_batch_size_is_a_number_or_auto():
    key = Key(help="Images.", minimum=1, words=("auto",))
    assert key.fault("auto") is None
    assert key.fault(1) is None
    assert key.fault(0) == key.fault("many") == key.fault(True) == "must be at least 1 or auto"


def test_sizes_are_powers_of_two_as_far_as_there_are_images():
    assert sizes_to_try(40, None) == [2, 4, 8, 16, 32]
    assert sizes_to_try(10_000, 64) == [2, 4, 8, 16, 32, 64]
    assert sizes_to_try(10_000, None)[-1] == 256
    assert sizes_to_try(1, None) == [1]


def tried(room, *, share=0.8, each=10, deadly=None, seconds=0.0, fixed=0):
    asked = []

    def cost_of(size):
        asked.append(size)
        return None if deadly and size >= deadly else Cost(fixed + each * size, seconds)

    return largest_that_fits([2, 4, 8, 16, 32], cost_of, room, share=share, most_seconds=5.0), asked


def test_the_largest_size_that_fits_is_found_with_a_margin_and_without_trying_what_cannot_fit():
    assert tried(1000) == (32, [2, 4, 8, 16, 32])
    assert tried(250) == (16, [2, 4, 8, 16])  # 32 would take 320 of 200
    assert tried(199) == (8, [2, 4, 8])  # 16 would take 160 of 159
    assert tried(None, deadly=16) == (8, [2, 4, 8, 16])
    assert tried(1000, seconds=6.0) == (2, [2])
    assert tried(10) == (1, [2])


def test_probing_leaves_the_model_and_all_that_draws_as_they_were(monkeypatch):
    training = config(training_batch_size="auto", optimizer="adam")
    task = MulticlassTask(classifier(), training, CLASSES)
    before, drawn = weights(task), torch.get_rng_state()
    size = fitting_batch_size(
        task,
        lambda images: batches(1, images)[0],
        images=20,
        training=training,
        trainer=TrainerConfig(accelerator="cpu"),
    )
    assert size == 16
    assert all(torch.equal(weights(task)[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_probing_stops_where_memory_ends():
    training = config(training_batch_size="auto")
    task = MulticlassTask(roomy(classifier(), 4), training, CLASSES)
    size = fitting_batch_size(
        task,
        lambda images: batches(1, images)[0],
        images=64,
        training=training,
        trainer=TrainerConfig(accelerator="cpu"),
    )
    assert size == 4


def test_what_was_asked_for_and_what_was_used_stand_in_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "_MOST_IMAGES", 8)
    result = lav.train(
        data={"training": str(write_folders(tmp_path / "data")), "cache": str(tmp_path)},
        model={"name": "timm", "architecture": "resnet18", "pretrained": False},
        training={
            "training_batch_size": "auto",
            "training_crop_size": 32,
            "validation_crop_size": 32,
            "validation_resize_size": 32,
            "number_of_epochs": 1,
            "number_of_workers": 0,
        },
        trainer={"accelerator": "cpu"},
        output_dir=str(tmp_path / "run"),
    )
    assert result.batch_size == {"requested": "auto", "used": 8}
    assert result.validation_batch_size == {"requested": "auto", "used": 8}
    assert "training_batch_size: auto" in (tmp_path / "run" / "config.yaml").read_text()
    assert "training.training_batch_size=auto: 8 images a step" in (tmp_path / "run" / "run.log").read_text()


def test_a_batch_size_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match=r"training_batch_size=many: must be at least 1 or auto"):
        lav.train(data={"training": "data"}, training={"training_batch_size": "many"})


def test_several_devices_are_given_a_number():
    asked = api.settings(
        data={"training": "data"},
        training={"training_batch_size": "auto"},
        trainer={"accelerator": "cpu", "devices": 2},
    )
    with pytest.raises(ConfigError, match=r"training_batch_size=auto: 2 devices would each find a size of their own"):
        checked_transform(asked)
