"""Whether a run goes on with what an earlier attempt left in its folder; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError, DataError, LostImagesError

CHECKPOINTS, LAST, PREVIOUS, BEST = "checkpoints", "last.ckpt", "previous.ckpt", "best.ckpt"
AUTO, NEVER = "auto", "never"
# What may differ between the attempts of one run: none of it decides what is learnt.
FREE = (
    "output_dir",
    "quiet",
    "resume",
    "limits",
    "logger",
    "data.cache",
    "data.cache_size_megabytes",
    "data.ignore_data_errors",
    "data.stream_image_files",
    "task.pictures",
    "trainer.accelerator",
    "trainer.log_every_n_steps",
    "training.checkpoint_frequency",
    "training.checkpoint_minutes",
    "training.number_of_workers",
)
_SEED = "training.random_seed"
_NOTHING = "none"


def kept_best(epoch: int) -> str:
    """What an epoch that was once the best is called as long as a checkpoint refers to it."""
    return f"best_{epoch:04}.ckpt"


def check_resume(value: str) -> None:
    if value not in (AUTO, NEVER):
        raise ConfigError(
            f"resume={value}: must be one of {AUTO}, {NEVER}. {AUTO} goes on where an earlier attempt at the same run"
            f" was ended, {NEVER} begins anew in its folder."
        )


def continued(settings: Settings) -> Settings:
    """The settings of this attempt, with the seed that an earlier one drew; ConfigError where that was another run."""
    if settings.resume == NEVER:
        return settings
    folder = Path(settings.output_dir).absolute()
    earlier = _earlier(folder)
    if earlier is None:
        return settings
    now = flat_settings(settings)
    drawn = now.get(_SEED) is None
    differs = next(differing(earlier, now, free=(*FREE, _SEED) if drawn else FREE), None)
    if differs is not None:
        if not can_go_on(folder):
            return settings
        raise ConfigError(
            f"output_dir={folder} holds a run that was ended, and cannot go on from there with"
            f" {differs}={now.get(differs, _NOTHING)}: it had {earlier.get(differs, _NOTHING)}."
            f" Repeat its command, begin anew in its place with resume={NEVER}, or name another folder."
        )
    seed = earlier.get(_SEED)
    if not drawn or seed is None:
        return settings
    training = replace(settings.training, random_seed=seed)
    return replace(settings, training=training, overrides=(*settings.overrides, f"{_SEED}={seed}"))


def can_go_on(folder: Path) -> bool:
    """Whether an attempt was ended after it had written a checkpoint."""
    return any((folder / CHECKPOINTS / name).is_file() for name in (LAST, PREVIOUS))


@contextmanager
def reading(folder: Path, *, ignores_faults: bool) -> Iterator[None]:
    """Images that cannot be read any more are told with the ways out."""
    try:
        yield
    except (DataError, LostImagesError) as error:
        goes_on = "it goes on from the last checkpoint" if can_go_on(folder) else "nothing is kept of it yet"
        single = "" if ignores_faults else " data.ignore_data_errors=true goes on without single images."
        raise type(error)(f"{error}{single} Repeat the command once they can be read: {goes_on}.") from None


def _earlier(folder: Path) -> dict[str, Any] | None:
    """The configuration of the attempt before, by full names; None where there was none."""
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {} if can_go_on(folder) else None
    return flat(values)


def flat_settings(settings: Settings) -> dict[str, Any]:
    """By full names, as they are read from the file that they are written into."""
    return flat(OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(settings.as_dict())))))


def differing(earlier: Mapping[str, Any], now: Mapping[str, Any], free: tuple[str, ...]) -> Iterator[str]:
    """The names whose values are not the same, but for those that are ``free`` and what is below them."""
    for name in {**now, **earlier}:
        if not any(name == key or name.startswith(f"{key}.") for key in free) and (
            name not in now or name not in earlier or now[name] != earlier[name]
        ):
            yield name


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by their full names."""
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        name: value
        for key, below in values.items()
        for name, value in flat(below, f"{prefix}.{key}" if prefix else str(key)).items()
    }
