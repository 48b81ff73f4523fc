"""An epoch of yolov5 trained by this package beside a raw PyTorch loop over the same network and the same batches.

    python benchmarks/yolov5_epoch.py $DATA/bccd [rounds]

The raw loop reads the same pictures through the same loader with the same mosaics, computes the same losses and takes
the same steps, and has nothing else: no trainer, no warm-up, no average of weights, no log. One thread, workers none,
nano at 320 pixels, batches of 16. Goal: at most 1.05 times the raw loop.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_automl_vision.api import settings
from lightning_automl_vision.data.labelled import load_data
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.run import RunFolder
from lightning_automl_vision.training import fit as fitting
from lightning_automl_vision.training import session as sessions
from lightning_automl_vision.training.optimizers import make_optimizer

BATCH, SIZE, SEED = 16, 320, 7


class Clock(L.Callback):
    """CPU seconds from the first training batch to the last one's end; a training's last step is taken by then."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds = time.process_time() - self.started


def prepared(source: Path, folder: Path) -> sessions.TrainingSession:
    one = folder / "one.jsonl"  # to validate on, which is not measured here
    one.write_text((source / "train.jsonl").read_text().splitlines()[0] + "\n")
    run = settings(
        task="image_object_detection",
        model={"name": "yolov5", "model_size": "nano", "image_size": SIZE},
        data={"training": str(source / "train.jsonl"), "validation": str(one), "images": str(source)},
        training={
            "training_batch_size": BATCH,
            "number_of_epochs": 1,
            "number_of_workers": 0,
            "random_seed": SEED,
            "learning_rate_scheduler": "linear",
        },
        trainer={"accelerator": "cpu"},
        logger="none",
        output_dir=str(folder / "run"),
        quiet=True,
    )
    splits = load_data(run.data, run.task.name, seed=SEED)
    transform = sessions.checked_transform(run)
    return sessions.TrainingSession.prepare(run, model_spec("yolov5"), splits, transform, SEED)


def ours(source: Path) -> float:
    clock, usual = Clock(), fitting.make_trainer

    def make(*arguments: Any, callbacks: list[L.Callback], **options: Any) -> L.Trainer:
        return usual(*arguments, callbacks=[*callbacks, clock], **options)

    with tempfile.TemporaryDirectory() as folder:
        session = prepared(source, Path(folder))
        fitting.make_trainer = make  # type: ignore[assignment]
        try:
            session.fit(RunFolder(folder))
        finally:
            fitting.make_trainer = usual
    return clock.seconds


def raw(source: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        session = prepared(source, Path(folder))
        training, model = session.settings.training, session.task.model.train()
        optimizer = make_optimizer(model, training)
        loader = session._loader(session.data.training, session.transform, BATCH, shuffle=True)
        started = time.process_time()
        accumulated = 0
        for batch in loader:
            loss = sum(model.losses(batch).values()) * len(batch)
            loss.backward()
            accumulated += len(batch)
            if accumulated >= (training.nominal_batch_size or 1):
                torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip or 10.0)
                optimizer.step()
                optimizer.zero_grad()
                accumulated = 0
        return time.process_time() - started


def main(source: Path, rounds: int) -> None:
    times = []
    for number in range(rounds + 1):
        pair = ours(source), raw(source)
        if number:  # the first round warms up
            times.append(pair)
    ratios = [mine / other for mine, other in times]
    mine, other = (statistics.median(values) for values in zip(*times, strict=True))
    print(
        f"epoch: {mine:.2f} CPU s, raw loop {other:.2f} s: {statistics.median(ratios):.3f} times"
        f" ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds)"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 5)
