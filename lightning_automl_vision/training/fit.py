"""One training: a Lightning trainer without anything that costs time or makes noise, and what it comes to."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import DoublePrecision
from torch import nn

from lightning_automl_vision.log import LOG
from lightning_automl_vision.models import Batch
from lightning_automl_vision.result import PRUNED
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig, TrainingConfig
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.training.checkpoints import WholeFiles, load
from lightning_automl_vision.training.devices import check_trainer, device_of
from lightning_automl_vision.training.ending import COMPLETED, LAST_STEP, STOPPED_EARLY, Ending
from lightning_automl_vision.training.evaluations import Evaluations
from lightning_automl_vision.training.gathering import is_connected, is_first, same_tensors
from lightning_automl_vision.training.halving import recover_memory, why_it_failed
from lightning_automl_vision.training.noise import silenced
from lightning_automl_vision.training.progress import Progress
from lightning_automl_vision.training.resuming import Checkpoints, Resumed, begin
from lightning_automl_vision.training.schedules import accumulated_batches
from lightning_automl_vision.training.speed import FirstStep, quickened
from lightning_automl_vision.training.stopping import Stopping
from lightning_automl_vision.training.strategy import devices_of, leave_ending_to_us, leaves_weights_out, surroundings
from lightning_automl_vision.training.trackers import keep_rows


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """``status`` is completed, stopped_early, timeout, pruned or interrupted; ``epochs`` counts those that were begun.

    ``reason`` says in words why it was asked to end, if it was. ``seconds_before`` are those of the attempts that
    this one went on from, which are among its ``seconds``.
    """

    status: str
    epochs: int
    seconds: float
    seconds_before: float = 0.0
    reason: str | None = None
    best_epoch: int | None = None
    best_metrics: Mapping[str, float] = field(default_factory=dict)


def fit(
    task: VisionTask[Any, Any],
    training_loader: Any,
    validation_loader: Any,
    *,
    training: TrainingConfig,
    trainer: TrainerConfig,
    limits: LimitsConfig,
    folder: Path,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[L.Callback] = (),
    quiet: bool = False,
    data: str = "",
    resumed: Resumed | None = None,
) -> FitResult:
    """Train; afterwards ``task.model`` holds the weights of the best evaluation, if there was one.

    Seeding is the caller's, before the model is built, and so is bringing the loader to where ``resumed`` was. The step
    limit counts as completed, and the time limit is of this training alone, earlier attempts included. ``data`` is the
    fingerprint of what is learnt from, for another attempt.
    """
    check_trainer(trainer)
    before = 0.0 if resumed is None else resumed.seconds
    started = time.monotonic() - before
    evaluations = Evaluations(folder=folder, training=training, started=started)
    ending = Ending(
        seconds=limits.timeout_minutes * 60, started=started, max_steps=LAST_STEP.get() or trainer.max_steps
    )
    stopping = Stopping.of_this_process()
    if resumed is not None:
        evaluations.go_on_from(resumed.evaluations)
    checkpoints = Checkpoints(
        folder=folder,
        minutes=training.checkpoint_minutes,
        started=started,
        evaluations=evaluations,
        ending=ending,
        stopping=stopping,
        data=data,
        resumed=resumed,
    )
    first_step = [FirstStep()] if trainer.compile else []
    bars = [Progress()] if sys.stderr.isatty() and not quiet and is_first() else []
    if is_first():
        begin(folder, resumed)
    try:
        with silenced(), ending.listening(), quickened(task, trainer):
            if resumed is not None and is_first():
                keep_rows(loggers, resumed.step)
            task.publish_every = trainer.log_every_n_steps
            task.train()  # the trainer keeps each module's mode, whatever it is
            lightning = make_trainer(
                training,
                trainer,
                folder=folder,
                loggers=loggers,
                callbacks=[
                    *bars,
                    *first_step,
                    ending,
                    evaluations,
                    stopping,
                    *callbacks,
                    checkpoints,
                ],
                unused=leaves_weights_out(task, training_loader, trainer),
            )
            recover_memory(lightning, training)
            lightning.strategy.checkpoint_io = WholeFiles(None if resumed is None else resumed.checkpoint)
            if resumed is None or resumed.ended is None:
                lightning.fit(
                    task, training_loader, validation_loader, ckpt_path=None if resumed is None else resumed.path
                )
        ending.settle()
    except (ValueError, RuntimeError, MemoryError) as error:
        if (told := why_it_failed(error, training)) is None:
            raise
        raise told from None
    if evaluations.best_epoch is not None:
        best = load(evaluations.best)["state_dict"] if is_first() else {}
        take(task.model, best)
        if not evaluations.best_is_held:
            LOG.info("Epoch %d, the best so far, is judged again for what is told of it.", evaluations.best_epoch)
            take(task.evaluated, best)
            with silenced():
                judge = make_trainer(training, trainer, folder=folder, loggers=(), callbacks=[])
                judge.validate(task, validation_loader, verbose=False)
            task.keep_evaluation()
        task.recall_evaluation()
    task.to(device_of(trainer.accelerator))  # the trainer left it on the CPU; what follows runs where it was trained
    asked = PRUNED if stopping.reason else STOPPED_EARLY if evaluations.stopped_early else COMPLETED
    ended, reason = (None, None) if resumed is None else (resumed.ended, resumed.reason)
    return FitResult(
        status=ending.reason or ended or asked,
        epochs=evaluations.epochs,
        seconds=time.monotonic() - started,
        seconds_before=before,
        reason=stopping.reason or reason,
        best_epoch=evaluations.best_epoch,
        best_metrics=evaluations.best_metrics,
    )


def take(model: nn.Module, state: Mapping[str, Any]) -> None:
    """The weights that the first process has, in all of them."""
    if is_first():
        model.load_state_dict(state)
    same_tensors(model, weights=True)


def make_trainer(
    training: TrainingConfig,
    trainer: TrainerConfig,
    *,
    folder: Path,
    loggers: Sequence[Logger],
    callbacks: list[L.Callback],
    unused: bool = False,
) -> L.Trainer:
    """Lightning's trainer, its own checkpoints, bars and summaries switched off; of all processes that are connected.

    With ``unused`` each step looks for weights that had no part in it.
    """
    double = trainer.precision == "64-true"
    device = device_of(trainer.accelerator)
    made = L.Trainer(
        accelerator=device,
        **devices_of(trainer, unused=unused),
        precision=None if double else trainer.precision,  # type: ignore[arg-type]  # checked to be one of its literals
        plugins=[*surroundings(), *([DoubleBatches()] if double else [])],
        max_epochs=training.number_of_epochs,
        max_steps=trainer.max_steps or -1,
        accumulate_grad_batches=batches_of_a_step(training),
        gradient_clip_val=training.gradient_clip,
        check_val_every_n_epoch=training.evaluation_frequency,
        deterministic="warn" if trainer.deterministic and device == "cuda" else False,
        log_every_n_steps=trainer.log_every_n_steps,
        logger=list(loggers) or False,
        callbacks=callbacks,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    if is_connected():
        leave_ending_to_us(made)
    return made


def batches_of_a_step(training: TrainingConfig) -> int:
    """How many batches one optimiser step is made of; a warm-up may begin with fewer."""
    if training.nominal_batch_size is None:
        return training.gradient_accumulation_step
    return accumulated_batches(training.nominal_batch_size, int(training.training_batch_size))


class DoubleBatches(DoublePrecision):
    """Lightning's own would write into our frozen batches."""

    def convert_input(self, data: Batch[Any]) -> Batch[Any]:
        return data.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
