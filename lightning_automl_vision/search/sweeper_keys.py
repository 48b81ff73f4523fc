"""What Hydra's words ask of a sweep: a sampler and its seed; and of a policy what was given key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lightning_automl_vision.composed import given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.search.policies import KEY, POLICIES, TARGET
from lightning_automl_vision.settings import LimitsConfig
from lightning_automl_vision.task_settings import TaskConfig

SAMPLER = "hydra.sweeper.sampler"
# The names that Hydra's Optuna sweeper has, as far as one aim can be searched with them.
NAMES: Mapping[str, Any] = {
    "tpe": "bayesian",
    "cmaes": {TARGET: "optuna.samplers.CmaEsSampler"},
    "nsgaii": {TARGET: "optuna.samplers.NSGAIISampler"},
}

_OF_HYDRA = ("_target_", "_recursive_", "defaults")
_LIMITS: Mapping[str, str] = {"n_trials": "max_trials", "n_jobs": "max_concurrent_trials"}


def unknown_key(name: str) -> str:
    """The line for a key that the sweeper does not have."""
    known = _known_keys()
    return (
        f"There is no key 'hydra.sweeper.{name}'.{nearest(name, known)} The keys of hydra.sweeper are"
        f" {', '.join(known)}."
    )


def _known_keys() -> list[str]:
    node = ConfigStore.instance().load("hydra/sweeper/automl.yaml").node
    return [str(name) for name in node if name not in _OF_HYDRA]


def check_keys(keys: Mapping[str, Any], task: TaskConfig) -> None:
    """ConfigError for those that there are not, are out of their range, or say otherwise what the task has decided."""
    if unknown := sorted(keys.keys() - {*_known_keys(), *_OF_HYDRA}):
        raise ConfigError(unknown_key(unknown[0]))
    if not 0 <= float(keys.get("max_failure_rate", 1.0)) <= 1:
        raise ConfigError(f"hydra.sweeper.max_failure_rate={keys['max_failure_rate']}: must be in [0, 1].")
    if not float(keys.get("lease_seconds", 60.0)) > 0:
        raise ConfigError(f"hydra.sweeper.lease_seconds={keys['lease_seconds']}: must be more than 0.")
    direction = "minimize" if task.lower_is_better else "maximize"
    if keys.get("direction") not in (None, direction):
        raise ConfigError(
            f"hydra.sweeper.direction={keys['direction']}: {task.judged_by}, by which trials are judged, is to"
            f" {direction}. Leave it out, or choose another task.primary_metric."
        )


def agreed_limit(name: str, limits: LimitsConfig, keys: Mapping[str, Any], arguments: Sequence[str]) -> int | None:
    """What ``hydra.sweeper`` and ``limits`` say of one thing; None where neither says anything."""
    own, there = next(item for item in fields(limits) if item.name == _LIMITS[name]), keys.get(name)
    full, value = f"limits.{own.name}", getattr(limits, own.name)
    here = value if value != own.default or full in dict(given(arguments)) else None
    if there is not None and (fault := own.metadata["key"].fault(there)):
        raise ConfigError(f"hydra.sweeper.{name}={there}: {fault}. {own.metadata['key'].help}")
    if None not in (here, there) and here != there:
        raise ConfigError(f"{full}={here} and hydra.sweeper.{name}={there} are the same setting and differ. Keep one.")
    return there if here is None else here


def agreed(name: str, here: Any, there: Any) -> Any:
    """What ``search`` and ``hydra.sweeper`` say of one thing; no storage is told, as it may hold a password."""
    if None not in (here, there) and here != there:
        one, other = ("", "") if name == "storage" else (f"={here}", f"={there}")
        raise ConfigError(
            f"search.{name}{one} and hydra.sweeper.{name}{other} are the same setting and differ. Keep one."
        )
    return there if here is None else here


def sampler_asked(node: Any, search_seed: int | None = None) -> tuple[Any, int | None]:
    """The sampler and the seed that ``hydra.sweeper.sampler`` names, or ``search.seed``; None for what is left open."""
    if node is None or isinstance(node, str):
        return NAMES.get(str(node), node), search_seed
    if not isinstance(node, Mapping):
        raise ConfigError(f"{SAMPLER}={node}: must be a name, such as tpe, or a mapping with {TARGET}.")
    plain: Any = OmegaConf.to_container(OmegaConf.create(dict(node)), resolve=True)
    values = {str(name): value for name, value in plain.items() if value is not None}
    name, seed = values.pop("name", None), values.get("seed")
    if seed is not None and (type(seed) is not int or seed < 0):
        raise ConfigError(f"{SAMPLER}.seed={seed}: must be a whole number, at least 0.")
    if None not in (seed, search_seed) and seed != search_seed:
        raise ConfigError(
            f"search.seed={search_seed} and {SAMPLER}.seed={seed} are the same setting and differ. Keep one."
        )
    if name is not None and TARGET in values:
        raise ConfigError(f"{SAMPLER}: {name} and {TARGET}={values[TARGET]} both say which. Keep one.")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{SAMPLER}.name={name}: must be a name, such as tpe.")
    named = NAMES.get(str(name), name)
    if isinstance(named, Mapping):
        values = {**named, **values}
    agreed = search_seed if seed is None else seed
    if TARGET in values:
        return values, agreed
    values.pop("seed", None)
    for idle in values:
        raise ConfigError(
            f"{SAMPLER}.{idle}: {name or 'a sampler by its name'} has no such key. Only a class of Optuna has keys"
            f" of its own, such as {SAMPLER}.{TARGET}=optuna.samplers.TPESampler."
        )
    return named, agreed


def policy_asked(node: Any, arguments: Sequence[str]) -> Any:
    """The policy without those keys of an experiment's that belong to another type than the command line names."""
    names = {name.removeprefix(f"{KEY}.") for name, _ in given(arguments) if name.startswith(f"{KEY}.")}
    if not isinstance(node, Mapping) or not names & {"type", TARGET}:
        return node
    kind = POLICIES.get(str(node.get("type")))
    known = {item.name for item in fields(kind)} if kind is not None and TARGET not in names else set()
    return {name: value for name, value in node.items() if name in names | known}
