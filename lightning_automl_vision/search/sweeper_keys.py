"""What Hydra's words ask of a sweep: a sampler and its seed; and of a policy what was given key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf

from lightning_automl_vision.composed import given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.policies import KEY, POLICIES, TARGET

SAMPLER = "hydra.sweeper.sampler"
# The names that Hydra's Optuna sweeper has, as far as one aim can be searched with them.
NAMES: Mapping[str, Any] = {
    "tpe": "bayesian",
    "cmaes": {TARGET: "optuna.samplers.CmaEsSampler"},
    "nsgaii": {TARGET: "optuna.samplers.NSGAIISampler"},
}


def sampler_asked(node: Any, search_seed: int | None = None) -> tuple[Any, int | None]:
    """The sampler and the seed that ``hydra.sweeper.sampler`` names, or ``search.seed``; None for what is left open."""
    if not isinstance(node, Mapping):
        return NAMES.get(node, node), search_seed
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
    named = NAMES.get(name, name)
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
