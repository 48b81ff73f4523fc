"""What a plan has to know of the data and of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning_automl_vision.search.asking import Asked
from lightning_automl_vision.search.gpus import usable_gpus
from lightning_automl_vision.search.portfolio import Facts


def facts_of(asked: Asked) -> Facts:
    """Read from the labels and from this machine."""
    import numpy as np

    from lightning_automl_vision.data.labelled import load_data
    from lightning_automl_vision.samples import Boxes

    settings = asked.settings
    data = load_data(replace(settings.data, test=None), settings.task.name, seed=asked.seed)
    sizes = [
        np.sqrt(np.prod((target.boxes[:, 2:] - target.boxes[:, :2]) * (header.width, header.height), axis=1))
        / max(header.width, header.height)
        for sample, header in zip(data.training.samples, data.training.headers, strict=True)
        if isinstance(target := sample.target, Boxes)
    ]
    objects = np.concatenate(sizes) if sizes else np.empty(0)
    return Facts(
        device="gpu" if _has_gpu(settings.trainer.accelerator) else "cpu",
        images=len(data.training),
        object_size=float(np.median(objects)) if len(objects) else None,
    )


def _has_gpu(accelerator: str) -> bool:
    """Without torch, which the process that drives a sweep need not import: what the driver shows."""
    return accelerator in ("gpu", "cuda", "mps") or bool(usable_gpus(accelerator))


def memory_there() -> int | None:
    """The bytes that may be used from now on: what the machine has left, or the group of processes this one is in."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    left = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    for most, now in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            group = int(Path(most).read_text()) - int(Path(now).read_text())
        except (OSError, ValueError):
            continue
        left = group if left is None else min(left, group)
    return left
