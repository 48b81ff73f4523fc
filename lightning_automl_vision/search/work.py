"""A sweep wherever it is done: in the process that began it, or in workers on other machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_automl_vision.search.asking import Asked
from lightning_automl_vision.search.gpus import usable_gpus

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from lightning_automl_vision.search.storages import Place
    from lightning_automl_vision.search.sweep import Sweep
    from lightning_automl_vision.search.tickets import Direction, Tickets

_MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was asked for, and where its study lies."""

    asked: Asked
    place: Place
    most_failures: float = 1.0
    lease_seconds: float = 60.0
    working_folder: Path = field(default_factory=Path.cwd)
    module: str = "lightning_automl_vision"

    @property
    def folder(self) -> Path:
        return Path(self.asked.settings.output_dir).absolute()

    @property
    def gpus(self) -> tuple[str, ...]:
        """Of this machine, where trials train on such."""
        return usable_gpus(self.asked.settings.trainer.accelerator)

    @property
    def direction(self) -> Direction:
        return "minimize" if self.asked.settings.task.lower_is_better else "maximize"

    def sampler(self) -> BaseSampler:
        from lightning_automl_vision.search.samplers import sampler_of

        startup = {} if self.asked.startup is None else {"startup": self.asked.startup}
        return sampler_of(self.asked.sampler, self.asked.seed, **startup)

    def pruner(self) -> BasePruner:
        from lightning_automl_vision.search.policies import policy_of

        return policy_of(self.asked.policy, self.direction)

    def sweep(
        self, tickets: Tickets, *, slots: int, threads: int, devices: Sequence[str | None] = (None,), **options: Any
    ) -> Sweep:
        from lightning_automl_vision.search.slots import Limits
        from lightning_automl_vision.search.sweep import Sweep

        limits, task = self.asked.settings.limits, self.asked.settings.task
        return Sweep(
            tickets=tickets,
            spaces=self.asked.spaces,
            arguments=self.asked.arguments,
            folder=self.folder,
            metric=task.judged_by,
            lower_is_better=task.lower_is_better,
            limits=Limits(
                slots=slots,
                seconds=limits.timeout_minutes * _MINUTE,
                trial_seconds=(limits.trial_timeout_minutes or limits.timeout_minutes) * _MINUTE,
                most_failures=self.most_failures,
                threads=threads,
                devices=devices,
            ),
            with_default=not self.asked.is_grid,
            draws_default=self.asked.draws_default,
            like_default=self.asked.like_default,
            planned=self.asked.planned,
            working_folder=self.working_folder,
            module=self.module,
            **options,
        )
