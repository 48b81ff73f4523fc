"""Where a run may train, and how precisely: what cannot work is said before anything is read."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.settings import TrainerConfig

_CPU_INFO = Path("/proc/cpuinfo")


def check_trainer(trainer: TrainerConfig) -> None:
    """Raise ConfigError for what this machine cannot do, or only absurdly slowly."""
    device = device_of(trainer.accelerator)
    if trainer != TrainerConfig() or "TORCHELASTIC_RUN_ID" in os.environ:
        from lightning_automl_vision.training.ranks import (
            check_ranks,
        )  # imports lightning, which a prediction needs not

        check_ranks(trainer, device)
    if trainer.precision == "16-mixed" and device == "cpu":
        raise ConfigError("trainer.precision=16-mixed: it needs a GPU, and this run trains on the CPU. Use 32-true.")
    if (
        trainer.precision == "bf16-mixed"
        and device == "cpu"
        and not (trainer.force_precision or computes_bf16(_cpu_flags()))
    ):
        raise ConfigError(
            "trainer.precision=bf16-mixed: this processor has no bf16 units, and networks were measured 6 to 7 times"
            " slower on such a one than with 32-true. Use 32-true, or trainer.force_precision=true all the same."
        )
    if trainer.precision == "64-true" and device == "mps":
        raise ConfigError(
            "trainer.precision=64-true: mps has no such numbers. Use 32-true, or trainer.accelerator=cpu."
        )
    if trainer.compile:
        check_compiler(device)


def device_of(accelerator: str) -> str:
    """``cuda``, ``mps`` or ``cpu``; ConfigError when the accelerator asked for is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"cuda": cuda, "mps": mps, "gpu": cuda or mps}
    if not there.get(accelerator, True):
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch {torch.__version__} finds none on this machine."
            " Use trainer.accelerator=cpu, or auto to take what there is."
        )
    if accelerator == "cpu":
        return "cpu"
    if cuda and accelerator != "mps":
        return "cuda"
    return "mps" if mps else "cpu"


def check_compiler(device: str) -> None:
    """ConfigError where torch has nothing to compile a network with."""
    if device == "mps":
        raise ConfigError("trainer.compile=true: torch does not compile for mps reliably. Leave it out.")
    if device == "cuda":
        if find_spec("triton") is None:
            raise ConfigError(
                "trainer.compile=true: torch compiles for a GPU with triton, which is not installed here."
            )
        return
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++", "cl"])):
        raise ConfigError(
            "trainer.compile=true: torch needs a C++ compiler to compile for the CPU, and"
            f" {f'CXX={named}' if named else 'none'} is found. Install g++, or leave it out."
        )


def computes_bf16(flags: str | None) -> bool:
    """Whether a processor of these flags multiplies bf16 in hardware; where nothing is known it is not refused."""
    return flags is None or any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def _cpu_flags() -> str | None:
    if platform.system() != "Linux" or not _CPU_INFO.exists():
        return None
    lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), None)
