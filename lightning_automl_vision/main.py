"""``lav`` and ``python -m lightning_automl_vision``: compose, run the job, say in one line what went wrong."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.config_errors import explain
from lightning_automl_vision.errors import ConfigError, Interrupted, TrainingError, VisionError
from lightning_automl_vision.help import help_text
from lightning_automl_vision.jobs import job_module
from lightning_automl_vision.log import on_console
from lightning_automl_vision.process import without_memory
from lightning_automl_vision.search.watching import TRIAL_FOLDER, watch_parent

DEBUG = "LAV_DEBUG"
# Among others: what `without_memory` tells apart.
_OF_MEMORY = (MemoryError, ImportError, OSError, SystemError)


def main() -> None:
    """Run the command line; leaves the process with the exit codes of docs/reference.md."""
    watch_parent()
    # Without this, hydra prints tracebacks of its own and leaves; the line a user sees is ours to write.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text([word for word in sys.argv[1:] if word[0] != "-"]), flush=True)
            return
        sys.argv[1:] = rewrite(sys.argv[1:])
        register()
        if TRIAL_FOLDER in os.environ:
            _compose_once()
        _application()
        sys.stdout.flush()
        if _failures:
            raise _failures[0]
    except VisionError as error:
        _leave(str(error), error.exit_code, error)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(explain(error, sys.argv[1:]), ConfigError.exit_code, error)
    except BrokenPipeError:  # whoever reads has read enough, as in `lav --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        _leave("Interrupted.", Interrupted.exit_code, error)
    except _OF_MEMORY as error:
        message = without_memory(error)
        if message is None:
            raise
        _leave(message, TrainingError.exit_code, error)


def run(config: DictConfig, overrides: Sequence[str]) -> float | None:
    """Do the composed job and give the primary metric, where the verb has one."""
    logging.getLogger().setLevel(logging.WARNING)  # hydra would print what any library has to tell
    settings = Settings.from_config(config, tuple(overrides))
    if settings.job.name == "train" and settings.limits.max_trials > 1:
        from lightning_automl_vision.search.job import run_sweep

        return run_sweep(config, _sweeper_keys(), overrides)
    if settings.job.name == "plan" and (settings.limits.max_trials > 1 or config.get("search") is not None):
        from lightning_automl_vision.search.automode import plan_sweep

        plan_sweep(config, _sweeper_keys(), overrides)
        return None
    job = job_module(settings.job.name)
    with on_console(quiet=settings.quiet):
        outcome: float | None = job.run(settings)
    return outcome


def _sweeper_keys() -> Mapping[str, Any]:
    """What an experiment says of a sweep that no -m begins."""
    sweeper = HydraConfig.get().sweeper if HydraConfig.initialized() else {}
    return sweeper if str(sweeper.get("_target_", "")).endswith(".AutomlSweeper") else {}


def _compose_once() -> None:
    """Hydra composes everything to look up `hydra.mode`, and again to run; a trial is a plain run in any case."""
    from hydra._internal.hydra import Hydra

    setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)  # noqa: B010


_failures: list[BaseException] = []


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
def _application(config: DictConfig) -> float | None:
    state = HydraConfig.get()
    if state.mode == RunMode.MULTIRUN:
        with open_dict(config):
            config.output_dir = state.runtime.output_dir
        return run(config, state.overrides.task)
    try:
        return run(config, state.overrides.task)
    except (VisionError, BrokenPipeError) as error:  # hydra would print a line of its own beside ours
        _failures.append(error)
    except _OF_MEMORY as error:
        if without_memory(error) is None:
            raise
        _failures.append(error)
    return None


def _leave(message: str, code: int, error: BaseException) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(code)
