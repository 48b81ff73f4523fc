"""What a run was asked for, composed, typed and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_automl_vision.config_errors import hint_of_range, unknown_key
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import as_written, check_ranges
from lightning_automl_vision.settings import (
    AugmentConfig,
    DataConfig,
    JobConfig,
    LimitsConfig,
    ModelConfig,
    ObjectAugmentConfig,
    TrainerConfig,
    TrainingConfig,
)
from lightning_automl_vision.task_settings import TaskConfig
from lightning_automl_vision.tiler_settings import TilerConfig

# Groups whose nodes belong to others: a search to its sweeper.
UNTYPED = ("search",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The composed configuration as typed objects, every value within its range."""

    task: TaskConfig
    model: ModelConfig
    data: DataConfig
    augment: AugmentConfig | ObjectAugmentConfig
    tiler: TilerConfig
    training: TrainingConfig
    trainer: TrainerConfig
    limits: LimitsConfig
    job: JobConfig
    logger: dict[str, Any]
    output_dir: str
    checkpoint: str | None
    runs: str | None
    quiet: bool
    resume: str
    overrides: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: DictConfig, overrides: tuple[str, ...] = ()) -> Settings:
        _refuse_unknown(config, cls)
        _refuse_without_search(config, overrides)
        try:
            values: Any = OmegaConf.to_object(config)
        except MissingMandatoryValue as error:
            name = as_written(str(error.full_key))
            raise ConfigError(f"{name} has no value. Give one: {name}=VALUE.") from None
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{as_written(str(error.full_key))}: {str(error).splitlines()[0]}.{hint_of_range(str(error.full_key))}"
            ) from None
        settings = cls(overrides=overrides, **{name: value for name, value in values.items() if name in _names(cls)})
        settings.check()
        return settings

    def check(self) -> None:
        """ConfigError for the first value out of its range."""
        for name in _names(type(self)):
            group = getattr(self, name)
            if hasattr(group, "__dataclass_fields__"):
                check_ranges(group, name)

    @property
    def model_parameters(self) -> dict[str, Any]:
        """What the plugin's builder takes: the model's keys, without those the core answers itself.

        A local file, or an earlier run, takes the place of published weights.
        """
        values = {name: value for name, value in asdict(self.model).items() if name not in ("name", "weights")}
        own = (self.model.weights, self.training.checkpoint_run_id, self.training.checkpoint_path)
        if "pretrained" in values and any(value is not None for value in own):
            values["pretrained"] = False
        return values

    def as_dict(self) -> dict[str, Any]:
        config = OmegaConf.create({name: getattr(self, name) for name in _names(Settings) if name != "overrides"})
        plain: Any = OmegaConf.to_container(config)
        return dict(plain)


def given(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The keys that were given for this run, beside what experiments and defaults say, with their values."""
    for override in overrides:
        name, _, value = override.lstrip("+~").partition("=")
        yield name, value


def _refuse_unknown(config: DictConfig, cls: type[Settings]) -> None:
    """``+key=value`` opens a typed node; what it adds would be read by nobody."""
    known = {*_names(cls), *UNTYPED} - {"overrides"}
    for name in config:
        node = config._get_node(str(name))
        if str(name) not in known:
            raise ConfigError(unknown_key(str(name)))
        for extra in _unknown_below(node, str(name)):
            raise ConfigError(unknown_key(extra))


def _refuse_without_search(config: DictConfig, overrides: Sequence[str]) -> None:
    """A key of a search was given where none is chosen."""
    node = config._get_node("search") if "search" in config else None
    for name, _ in given(overrides):
        if name.startswith("search.") and isinstance(node, DictConfig) and not is_dataclass(OmegaConf.get_type(node)):
            raise ConfigError(unknown_key(".".join(name.split(".")[:2])))


def _unknown_below(node: Any, prefix: str) -> Iterator[str]:
    if not isinstance(node, DictConfig):
        return
    kind = OmegaConf.get_type(node)
    typed = {field.name for field in fields(kind)} if is_dataclass(kind) else None
    for name in node:
        full = f"{prefix}.{name!s}"
        if typed is not None and str(name) not in typed:
            yield full
        elif typed is not None:
            yield from _unknown_below(node._get_node(name), full)


def _names(cls: type[Settings]) -> list[str]:
    return [field.name for field in fields(cls)]
