"""A detector trained by this package beside a plain loop over torchvision's own model: same losses, same time.

    python benchmarks/detector_parity.py $DATA/bccd

Same pictures (brought to 320 x 240 once, so that neither side resizes), same order, same first weights, same optimiser
and schedule, no augmentation, torch's generator set alike before each step. Prints the largest difference of any loss
over the first ten steps, and the CPU seconds of a step on one thread, decoding and loading included. Goals: 1e-4, and
at most 1.03 times the plain loop.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from lightning_automl_vision.api import settings
from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.data.sampling import EpochSampler
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.run import RunFolder
from lightning_automl_vision.samples import Boxes, Place, Sample
from lightning_automl_vision.training import session as sessions
from lightning_automl_vision.training.optimizers import make_optimizer
from lightning_automl_vision.training.schedules import factor_of

WIDTH, HEIGHT, ROIS, BATCH, STEPS, ROUNDS, SEED = 320, 240, 64, 2, 10, 5, 7


def prepared(source: Path, folder: Path) -> Path:
    """The first pictures of the training set at the size that both sides take."""
    lines = (source / "train.jsonl").read_text().splitlines()[:48]
    out = []
    for number, line in enumerate(map(json.loads, lines)):
        picture = cv2.imread(str(source / line["image_url"]))
        assert picture is not None
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
        out.append(json.dumps({"image_url": f"{number}.png", "label": line["label"]}))
    (folder / "train.jsonl").write_text("\n".join(out) + "\n")
    (folder / "one.jsonl").write_text(out[0] + "\n")  # to validate on, which is not measured here
    return folder / "train.jsonl"


class Plain(Dataset[Any]):
    """What a tutorial's data set does."""

    def __init__(self, samples: Sequence[Sample[Boxes]]) -> None:
        self.samples = samples

    def __getitem__(self, draw: Any) -> tuple[Tensor, dict[str, Tensor]]:
        sample = self.samples[draw.image]
        pixels = cv2.cvtColor(cv2.imread(sample.image), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
        truth = sample.target.placed(Place(0, 0, pixels.shape[1], pixels.shape[0]))
        boxes = torch.from_numpy(truth.boxes.astype(np.float32))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        return image, {"boxes": boxes, "labels": torch.from_numpy(truth.labels) + 1}


class Clock:
    def __init__(self) -> None:
        self.ticks: list[float] = []

    def tick(self) -> None:
        self.ticks.append(time.process_time())

    @property
    def seconds(self) -> float:
        """Of a step, the first one left out."""
        return (self.ticks[STEPS] - self.ticks[1]) / (STEPS - 1)


class Watch(L.Callback):
    """Sets the generator before each step, and keeps the losses of each."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.losses: list[dict[str, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.tick()
        torch.manual_seed(len(self.losses))

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        self.losses.append({name: float(total) for name, total in task._meter._window.items()})
        if len(self.losses) == STEPS:
            self.clock.tick()


def asked(data: Path, folder: Path) -> Any:
    return settings(
        task="image_object_detection",
        model={
            "name": "fasterrcnn_resnet18_fpn",
            "pretrained": False,
            "min_size": HEIGHT,
            "max_size": WIDTH,
            "box_samples_per_image": ROIS,
        },
        augment="none",
        data={"training": str(data), "validation": str(data.with_name("one.jsonl"))},
        training={"training_batch_size": BATCH, "number_of_workers": 0, "random_seed": SEED, "optimizer": "sgd"},
        trainer={"accelerator": "cpu", "max_steps": STEPS},
        logger="none",
        output_dir=str(folder),
        quiet=True,
    )


def ours(data: Path) -> tuple[dict[str, Tensor], Any, Watch]:
    with tempfile.TemporaryDirectory() as folder:
        run = asked(data, Path(folder) / "run")
        splits = load_data(run.data, run.task.name, seed=SEED)
        transform = sessions.checked_transform(run)
        session = sessions.TrainingSession.prepare(run, model_spec(run.model.name), splits, transform, SEED)
        weights = {name: value.clone() for name, value in session.task.model.backbone().state_dict().items()}
        watch = Watch()
        with _also(watch):
            session.fit(RunFolder(folder))
    return weights, (run, splits), watch


class _also:
    """Adds a callback to the trainer that `fit` makes."""

    def __init__(self, callback: L.Callback) -> None:
        self.callback = callback

    def __enter__(self) -> None:
        from lightning_automl_vision.training import fit as module

        self.usual = module.make_trainer

        def make(*arguments: Any, callbacks: list[L.Callback], **options: Any) -> L.Trainer:
            return self.usual(*arguments, callbacks=[*callbacks, self.callback], **options)

        module.make_trainer = make  # type: ignore[assignment]

    def __exit__(self, *_: Any) -> None:
        from lightning_automl_vision.training import fit as module

        module.make_trainer = self.usual


def plain(weights: dict[str, Tensor], run: Any, splits: Any) -> tuple[list[dict[str, float]], Clock]:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    model = FasterRCNN(
        backbone,
        num_classes=len(splits.classes) + 1,
        min_size=HEIGHT,
        max_size=WIDTH,
        box_batch_size_per_image=ROIS,
        _skip_resize=True,  # else it draws one of its sizes for each picture
    )
    model.load_state_dict(weights)
    model.train()
    samples = splits.training.samples
    optimizer = make_optimizer(model, run.training)
    per_epoch = len(samples) // BATCH
    total = min(STEPS, per_epoch * run.training.number_of_epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, factor_of(run.training, steps_per_epoch=per_epoch, total=total)
    )
    loader = DataLoader(
        Plain(samples),
        sampler=EpochSampler(len(samples), shuffle=True, seed=SEED),
        batch_size=BATCH,
        collate_fn=lambda items: tuple(zip(*items, strict=True)),
    )
    clock, losses = Clock(), []
    for step, (images, targets) in enumerate(_endless(loader)):
        clock.tick()
        if step == STEPS:
            return losses, clock
        torch.manual_seed(step)
        found = model(list(images), list(targets))
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
        schedule.step()
        losses.append({name.removeprefix("loss_"): float(loss.detach()) for name, loss in found.items()})
    raise AssertionError


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def main(source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = prepared(source, Path(folder))
        ratios, times = [], []
        for number in range(ROUNDS):
            weights, context, watch = ours(data)
            expected, clock = plain(weights, *context)
            if number == 0:
                report(watch, expected)
                continue  # the first round warms up
            times.append((watch.clock.seconds, clock.seconds))
            ratios.append(watch.clock.seconds / clock.seconds)
    mine, theirs = (statistics.median(values) for values in zip(*times, strict=True))
    print(
        f"step: {mine:.3f} s, plain loop {theirs:.3f} s: {statistics.median(ratios):.3f} times"
        f" ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds)"
    )


def report(watch: Watch, expected: list[dict[str, float]]) -> None:
    before = dict.fromkeys(expected[0], 0.0)
    worst = 0.0
    for ours_so_far, theirs in zip(watch.losses, expected, strict=True):
        for name, loss in theirs.items():
            worst = max(worst, abs(ours_so_far[name] - before[name] - loss))
        before = ours_so_far
    print(f"largest difference of a loss in {len(expected)} steps: {worst:.2g} (losses {expected[-1]})")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
