"""One training: a Lightning trainer without anything that costs time or makes noise, and what it comes to."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.settings import LimitsConfig, TrainerConfig, TrainingConfig
from lightning_automl_vision.tasks.base import VisionTask
from lightning_automl_vision.training.ending import Ending
from lightning_automl_vision.training.evaluations import Evaluations
from lightning_automl_vision.training.progress import Progress


@dataclass(frozen=True, kw_only=True)
class FitResult:
    status: str
    epochs: int
    seconds: float
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
    quiet: bool = False,
) -> FitResult:
    """Train; afterwards ``task.model`` holds the weights of the best evaluation, if there was one."""
    started = time.monotonic()
    check_trainer(trainer)
    evaluations = Evaluations(folder=folder, training=training)
    ending = Ending(seconds=limits.timeout_minutes * 60, started=started, max_steps=trainer.max_steps)
    callbacks = [ending, evaluations, *([Progress()] if sys.stderr.isatty() and not quiet else [])]
    with silenced(), ending.listening():
        lightning = L.Trainer(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            precision=trainer.precision,  # type: ignore[arg-type]  # checked to be one of its literals
            max_epochs=training.number_of_epochs,
            max_steps=trainer.max_steps or -1,
            accumulate_grad_batches=training.gradient_accumulation_step,
            gradient_clip_val=training.gradient_clip,
            check_val_every_n_epoch=training.evaluation_frequency,
            deterministic="warn" if trainer.deterministic and torch.cuda.is_available() else False,
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
        task.train()  # once, so that frozen batch norms stay out of it: the trainer keeps each module's mode
        lightning.fit(task, training_loader, validation_loader)
    if evaluations.best_epoch is not None:
        best = torch.load(evaluations.best, map_location="cpu", weights_only=True)
        task.model.load_state_dict(best["state_dict"])
    return FitResult(
        status=ending.reason or ("stopped_early" if evaluations.stopped_early else "completed"),
        epochs=evaluations.epochs,
        seconds=time.monotonic() - started,
        best_epoch=evaluations.best_epoch,
        best_metrics=evaluations.best_metrics,
    )


def check_trainer(trainer: TrainerConfig) -> None:
    """What cannot work, or only absurdly slowly, is said before anything is read."""
    if trainer.devices > 1:
        raise ConfigError(f"trainer.devices={trainer.devices}: this version trains on one device. Leave it at 1.")
    if trainer.precision == "bf16-mixed" and trainer.accelerator in ("auto", "cpu") and not _fast_bf16():
        raise ConfigError(
            "trainer.precision=bf16-mixed: this processor has no bf16 units,"
            " and such a one was measured 6 to 7 times slower than with 32-true. Use 32-true."
        )


def _fast_bf16() -> bool:
    if torch.cuda.is_available():
        return True
    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else capabilities
    return "avx512_bf16" in flags or "amx_bf16" in flags


# Said by Lightning or torch about what is meant to be so here.
_HARMLESS = (
    r".*does not have many workers.*",  # number_of_workers decides, by cores and images
    r".*The number of training batches .* is smaller than the logging interval.*",  # an epoch logs once in any case
    r".*GPU available but not used.*",  # asked for
    r".*Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`.*",  # a skipped 16-mixed step
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning's own use of torch
)


@contextmanager
def silenced() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            logger.setLevel(level)
