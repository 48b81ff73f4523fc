"""The draws that train what the command does by itself, which trial 0 does already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_automl_vision.arguments import is_group
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.composing import composed, settings_of
from lightning_automl_vision.search.distributions import Choice, as_text
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.spaces import Space, Spaces
from lightning_automl_vision.typed_nodes import typed_nodes

# Its own has the time in it, and so has whatever else names it.
_ANYWHERE = "output_dir=anywhere"
# So many combinations of choices are composed for a space: of most groups one choice alone can be the default.
_MOST = 20


def like_default(spaces: Spaces, arguments: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    """The values of whichever space with which the arguments compose to what they are without them."""
    arguments = [*arguments, _ANYWHERE]
    config = composed(arguments)
    default = settings_of(config, arguments)
    return tuple(
        values
        for space in spaces.spaces
        for values in islice(_near(space, config), _MOST)
        if _trained(values, arguments) == default
    )


def check_something_varies(spaces: Spaces, alike: Sequence[Mapping[str, Any]]) -> None:
    try:
        others = spaces.points().keys() - {as_text(values) for values in alike}
    except ConfigError:  # they cannot be counted
        return
    if not others:
        raise ConfigError(
            "Nothing varies: all that can be drawn is what the command does without the search. Give the space other"
            " values."
        )


def _near(space: Space, config: DictConfig) -> Iterator[dict[str, Any]]:
    """Every other key as the configuration has it, and of groups whatever may be the choice in it."""
    keys = (*space.fixed, *space.free)
    for values in product(*(_values(space, key, config) for key in keys)):
        yield dict(zip(keys, values, strict=True))


def _values(space: Space, key: str, config: DictConfig) -> Sequence[Any]:
    law = space.free.get(key)
    there = OmegaConf.select(config, key.lstrip("+"))
    there = OmegaConf.to_container(there, resolve=True) if OmegaConf.is_config(there) else there
    if is_group(key):
        choices = law.grid() if isinstance(law, Choice) else [space.fixed.get(key)]
        return [choice for choice in choices if _may_be(choice, key.lstrip("+"), there)]
    if space.fault(key, there):
        return []
    return [space.fixed[key] if law is None else law.value(law.parameter(there))]


def _may_be(choice: Any, group: str, there: Any) -> bool:
    """Groups whose choices have names of their own need not be composed to see that another one is there."""
    own = getattr(typed_nodes().get((group, choice)), "name", None)
    return own is None or not isinstance(there, Mapping) or own == there.get("name")


def _trained(values: Mapping[str, Any], arguments: Sequence[str]) -> Settings | None:
    try:
        return settings_of(composed([*arguments, *as_overrides(values)]), arguments)
    except ConfigError:
        return None
