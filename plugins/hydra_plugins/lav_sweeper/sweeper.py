"""``hydra/sweeper: automl``: hands what Hydra found on the command line to the search."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field  # no deferred annotations: hydra imports this under no name of its own
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


@dataclass
class SweeperConfig:
    """The keys of Hydra's Optuna sweeper; `limits` and `search` say the same in this project's words."""

    _target_: str = "hydra_plugins.lav_sweeper.sweeper.AutomlSweeper"
    _recursive_: bool = False  # a sampler is made where its faults are told
    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"sampler": None}])
    sampler: Any = None
    direction: Any = None
    study_name: str | None = None
    storage: Any = None
    n_trials: int | None = None
    n_jobs: int | None = None
    max_failure_rate: float = 1.0
    params: Any = None
    lease_seconds: float = 60.0  # a worker that is silent for so long is taken for dead


SAMPLERS = ("tpe", "random", "grid", "cmaes", "nsgaii", "bayesian", "sobol")


@dataclass
class SamplerConfig:
    """A choice of the group that Hydra's Optuna sweeper has too."""

    name: str
    seed: int | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="automl", node=SweeperConfig, provider="lightning_automl_vision"
)
if find_spec("hydra_plugins.hydra_optuna_sweeper") is None:  # which has samplers of these names itself
    for name in SAMPLERS:
        ConfigStore.instance().store(
            group="hydra/sweeper/sampler", name=name, node=SamplerConfig(name=name), provider="lightning_automl_vision"
        )


class AutomlSweeper(Sweeper):
    """Each trial is a process of its own; the task function is never called."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.context = config, hydra_context

    def sweep(self, arguments: list[str]) -> Any:
        from lightning_automl_vision.errors import ConfigError
        from lightning_automl_vision.search.job import run_sweep

        assert self.config is not None
        if self.config.job.name == "plan":
            from lightning_automl_vision.search.automode import plan_sweep

            return plan_sweep(self.config, self.keys, arguments)
        if self.config.hydra.launcher.get("n_jobs") == 1:
            raise ConfigError("hydra.launcher.n_jobs=1: one worker of joblib is no process of its own. Leave it out.")
        is_basic = self.config.hydra.launcher.get("_target_", "").endswith(".BasicLauncher")
        return run_sweep(self.config, self.keys, arguments, None if is_basic else self._launch)

    def _launch(self, task: TaskFunction, jobs: Sequence[Sequence[str]], first: int) -> list[str]:
        """What went wrong with each, once all have ended."""
        assert self.config is not None
        assert self.context is not None
        config = copy.deepcopy(self.config)
        with open_dict(config):
            if config.hydra.launcher.get("n_jobs") == -1:  # of joblib: the cores; and one would be this very process
                config.hydra.launcher.n_jobs = max(len(jobs), 2)
        logging.getLogger("hydra_plugins").setLevel(logging.WARNING)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=task, config=config
        )
        return [_fault(job) for job in launcher.launch(jobs, initial_job_idx=first)]


def _fault(job: JobReturn) -> str:
    try:
        return str(job.return_value or "")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
