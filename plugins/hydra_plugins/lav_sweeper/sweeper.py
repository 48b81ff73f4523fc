"""``hydra/sweeper: automl``: hands what Hydra found on the command line to the search."""

from dataclasses import dataclass, field  # no deferred annotations: hydra imports this under no name of its own
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SweeperConfig:
    """The keys of Hydra's Optuna sweeper; `limits` and `search` say the same in this project's words."""

    _target_: str = "hydra_plugins.lav_sweeper.sweeper.AutomlSweeper"
    sampler: Any = None
    direction: Any = None
    study_name: str | None = None
    storage: Any = None
    n_trials: int | None = None
    n_jobs: int | None = None
    max_failure_rate: float = 1.0
    params: dict[str, Any] | None = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/sweeper", name="automl", node=SweeperConfig, provider="lightning_automl_vision"
)


class AutomlSweeper(Sweeper):
    """Each trial is a process of its own; the task function is never called."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        from lightning_automl_vision.search.job import run_sweep

        assert self.config is not None
        return run_sweep(self.config, self.keys, arguments)
