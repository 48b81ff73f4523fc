"""``lock.json``: what a run stood on, so that it can be trained again and compared; imports no torch by itself."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, VisionError
from lightning_automl_vision.installed import version_of
from lightning_automl_vision.log import LOG
from lightning_automl_vision.plugins import GROUP, models_by_plugin
from lightning_automl_vision.result import versions
from lightning_automl_vision.run import write_json

if TYPE_CHECKING:
    from lightning_automl_vision.data.labelled import DataSplits
    from lightning_automl_vision.data.manifest import Manifest

LOCK, CONFIG = "lock.json", "config.yaml"
_FORMAT = 1
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """``machine`` and ``versions`` are what digits depend on; ``files`` are hashes of what the configuration names.

    ``plugin`` is that of the model, ``working_folder`` what relative paths start from.
    """

    overrides: tuple[str, ...]
    configuration: str
    random_seed: int
    model: str
    plugin: str
    data: Mapping[str, Manifest]
    files: Mapping[str, str]
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    device: str
    threads: Mapping[str, int]
    number_of_workers: int
    working_folder: str
    format_version: int = _FORMAT

    def as_dict(self) -> dict[str, Any]:
        return {"format_version": self.format_version, **asdict(self)}


def write_lock(folder: Path, settings: Settings, data: DataSplits[Any]) -> None:
    """After the result, so that nothing that happens here costs a run its end; what fails is said and left out."""
    try:
        write_json(folder / LOCK, lock_of(folder, settings, data).as_dict())
    except (VisionError, OSError, MemoryError, RuntimeError) as error:  # of threads that cannot be started too
        LOG.warning("There is no %s, so that this run cannot be reproduced: %s", LOCK, error)


def lock_of(folder: Path, settings: Settings, data: DataSplits[Any]) -> Lock:
    """Of the run that this process has done."""
    import cv2
    import torch

    from lightning_automl_vision.data.module import number_of_workers
    from lightning_automl_vision.training.devices import device_of

    plugin = plugin_of(settings.model.name)
    return Lock(
        overrides=tuple(text for text in settings.overrides if not text.startswith("output_dir=")),
        configuration=digest_of_configuration(folder),
        random_seed=int(settings.training.random_seed or 0),
        model=settings.model.name,
        plugin=plugin,
        data=manifests_of(data),
        files=files_of(settings),
        versions=all_versions(plugin),
        machine=machine(),
        device=device_of(settings.trainer.accelerator),
        threads={"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()},
        number_of_workers=number_of_workers(settings.training.number_of_workers, len(data.training)),
        working_folder=os.getcwd(),
    )


def read_lock(folder: Path) -> Lock:
    """ConfigError where there is none, or one that this version cannot read."""
    from lightning_automl_vision.data.manifest import Manifest

    path = folder / LOCK
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = values["format_version"]
        if known != _FORMAT:
            raise ConfigError(f"{path} is of format {known}, and this version reads format {_FORMAT}. Install its own.")
        data = {name: Manifest(**manifest) for name, manifest in values["data"].items()}
        return Lock(**{**values, "data": data, "overrides": tuple(values["overrides"])})
    except OSError as error:
        raise ConfigError(
            f"{path}: {(error.strerror or str(error)).lower()}. Only a finished run has one, of a version that writes"
            " them; train again to have one."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is not a lock of this version: {error}. Restore the file, or train again.") from None


def manifests_of(data: DataSplits[Any]) -> dict[str, Manifest]:
    """By role; training and validation are what they were after a split."""
    from lightning_automl_vision.data.manifest import manifest_of

    sets = {"training": data.training, "validation": data.validation, "test": data.test}
    return {role: manifest_of(images) for role, images in sets.items() if images is not None}


def files_of(settings: Settings) -> dict[str, str]:
    """The hash of each file, beside the data, that a key of the configuration names."""
    from lightning_automl_vision.data.manifest import digest_of_file

    named = {
        "model.weights": settings.model.weights,
        "augment.file": settings.augment.file,
        "training.checkpoint_path": settings.training.checkpoint_path,
    }
    return {key: digest_of_file(path) for key, path in named.items() if path and Path(path).is_file()}


def digest_of_configuration(folder: Path) -> str:
    return hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()


def plugin_of(model: str) -> str:
    """The plugin that offers a model, or nothing."""
    return next((name for name, specs in models_by_plugin().items() if model in {spec.name for spec in specs}), "")


def all_versions(plugin: str) -> dict[str, str]:
    """Of everything a digit may depend on; the plugin's is that of the package it came with."""
    found = {**versions(), "torchvision": version_of("torchvision") or "none"}
    entry = next(iter(entry_points(group=GROUP, name=plugin)), None)
    if entry is not None and entry.dist is not None:
        found[f"plugin {plugin}"] = f"{entry.dist.name} {entry.dist.version}"
    return found


def machine() -> dict[str, str]:
    """What this machine's digits may depend on."""
    import torch

    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": " ".join(part for part in platform.libc_ver() if part) if sys.platform == "linux" else "",
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        found |= {"device": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return found


def _processor() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def differences(lock: Lock) -> list[str]:
    """In words, where versions or the machine are not those of the lock, with both values."""
    here = {**all_versions(lock.plugin), **machine()}
    was = {**lock.versions, **lock.machine}
    return [
        f"{name} was {was.get(name, 'none')}, here it is {here.get(name, 'none')}"
        for name in dict.fromkeys((*was, *here))
        if was.get(name) != here.get(name)
    ]
