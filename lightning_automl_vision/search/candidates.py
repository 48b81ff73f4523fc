"""Which candidates of a portfolio agree with what the command line and an experiment have decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from lightning_automl_vision.composed import Settings, given
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.plugins import model_spec, model_specs
from lightning_automl_vision.search.distributions import LogUniform
from lightning_automl_vision.search.portfolio import MODEL, PRETRAINED, Candidate, Epochs, read_portfolio
from lightning_automl_vision.search.spaces import Space
from lightning_automl_vision.search_settings import SearchConfig

_GROUPS = ("task", "model", "augment", "tiler", "training")
IS_GIVEN = "is given"
_RATE = "training.learning_rate"


@dataclass(frozen=True, kw_only=True)
class Found:
    candidates: tuple[Candidate, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)


def candidates_for(settings: Settings, config: DictConfig, fixed: Sequence[str], search: SearchConfig) -> Found:
    """Those of the portfolio that agree, each without the keys that are decided; ConfigError if none is left.

    A model that the user named and the portfolio does not know is tried by itself.
    """
    decided = decisions(settings, config, fixed)
    portfolio = _asked_for(read_portfolio(settings.task.name, search.portfolio), search.candidates)
    kept, excluded = [], {}
    for candidate in portfolio:
        reason = _disagreement(candidate, decided)
        if reason:
            excluded[candidate.name] = reason
        else:
            kept.append(candidate.given({key: value for key, value in decided.items() if key != MODEL}))
    if not kept and MODEL in decided:
        kept.append(_by_itself(settings, decided))
    if not kept:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in excluded.items())
        raise ConfigError(f"AutoMode has nothing to try. {reasons}.")
    return Found(candidates=tuple(kept), excluded=excluded, given=decided)


def decisions(settings: Settings, config: DictConfig, fixed: Sequence[str]) -> dict[str, Any]:
    """Every key of a candidate's kind that the command line or an experiment has given a value, and that value."""
    now = dict(_flat(config))
    usual = dict(_flat(compose("config", [f"task={settings.task.name}", f"model={settings.model.name}"])))
    named = {name for name, _ in given(fixed)}
    decided = {key: value for key, value in now.items() if key in named or usual.get(key, value) != value}
    default = compose("config", [f"task={settings.task.name}"]).model.name
    if MODEL in named or settings.model.name != default:
        decided[MODEL] = settings.model.name
    for group in ("augment", "tiler"):
        if group in named:
            decided[group] = next(value for name, value in given(fixed) if name == group)
    return decided


def _flat(config: DictConfig) -> Iterator[tuple[str, Any]]:
    def walk(node: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, Mapping):
            for key, value in node.items():
                yield from walk(value, f"{name}.{key}")
        else:
            yield name, node

    for group in _GROUPS:
        container: Any = OmegaConf.to_container(config[group], resolve=True)
        yield from walk({key: value for key, value in container.items() if key != "name"}, group)


def _asked_for(portfolio: Sequence[Candidate], names: Sequence[str] | None) -> list[Candidate]:
    if names is None:
        return [*portfolio]
    known = {candidate.name: candidate for candidate in portfolio}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"search.candidates: there is no {name!r}.{nearest(name, list(known))} There are {', '.join(known)}."
            )
    return [known[name] for name in names]


def _disagreement(candidate: Candidate, decided: Mapping[str, Any]) -> str | None:
    """Why the candidate is not what the user has in mind, or cannot be at all."""
    name = str(candidate.space.fixed[MODEL])
    try:
        spec = model_spec(name)
    except ConfigError:
        return f"no installed plugin has the model {name}.{nearest(name, list(model_specs()))}".rstrip(".")
    if decided.get(MODEL, spec.name) != spec.name:
        return f"model={decided[MODEL]} {IS_GIVEN}"
    own = candidate.space.fixed.get(PRETRAINED, getattr(spec.config, "pretrained", None))
    if PRETRAINED in decided and own is not None and decided[PRETRAINED] != own:
        return f"{PRETRAINED}={str(decided[PRETRAINED]).lower()} {IS_GIVEN}"
    return None


def _by_itself(settings: Settings, decided: Mapping[str, Any]) -> Candidate:
    """A model of which nothing more is known than its defaults."""
    rate, epochs = settings.training.learning_rate, settings.training.number_of_epochs
    law = LogUniform(key=_RATE, min=rate / 10, max=rate * 3)
    space = Space(name=model_specs()[settings.model.name].name, fixed={MODEL: settings.model.name}, free={_RATE: law})
    candidate = Candidate(space=space, epochs=Epochs(least=max(epochs // 4, 1), usual=epochs, most=epochs * 2))
    return candidate.given({key: value for key, value in decided.items() if key != MODEL})
