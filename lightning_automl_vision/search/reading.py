"""Reads distributions: mappings with a type, hydra's sweep syntax, and calls such as ``uniform(0.1, 0.2)``."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from decimal import ROUND_CEILING, Decimal
from functools import cache, partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, QuotedString, RangeSweep, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import nearest
from lightning_automl_vision.search.distributions import (
    Choice,
    Distribution,
    Integer,
    LogUniform,
    QuantizedUniform,
    RandomInteger,
    Stepped,
    Uniform,
)
from lightning_automl_vision.search.latent import (
    LogNormal,
    Normal,
    QuantizedLogNormal,
    QuantizedLogUniform,
    QuantizedNormal,
)

DISTRIBUTIONS: Mapping[str, type[Distribution]] = {
    kind.type: kind
    for kind in (
        Choice,
        Uniform,
        LogUniform,
        QuantizedUniform,
        QuantizedLogUniform,
        Normal,
        LogNormal,
        QuantizedNormal,
        QuantizedLogNormal,
        RandomInteger,
        Integer,
        Stepped,
    )
}
# The names of a config group's choices, which ``glob()`` picks from.
ChoicesOf = Callable[[str], Sequence[str]]
# How hydra begins to say what is wrong with a function.
_WHERE = re.compile(r"^(?:\w+ while evaluating '.*?': )+")


def distribution_of(value: Any, key: str, choices_of: ChoicesOf | None = None) -> Any:
    """The distribution that a value of the configuration describes; a fixed value as it is, without OmegaConf's types.

    A text is read as hydra's command line reads it: ``a,b`` are two choices, ``'a,b'`` is a text, ``1e-3`` a number.
    """
    if isinstance(value, Distribution):
        return value
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, str):
        value = _parsed(value, key)
    if isinstance(value, _Call):
        return _from_call(value, key)
    if isinstance(value, Mapping) and "type" in value:
        return _from_mapping(value, key)
    if isinstance(value, Glob):
        return Choice(key=key, values=_globbed(value, key, choices_of))
    if isinstance(value, Sweep):
        return _from_sweep(value, key)
    return _plain(value, key)


@dataclass(frozen=True)
class _Call:
    """``uniform(0.1, 0.2)`` as it was written."""

    type: str
    positional: tuple[Any, ...]
    named: Mapping[str, Any]


def _parsed(text: str, key: str) -> Any:
    try:
        return _parser().parse_rule(f"key={text}", "override").value()
    except HydraException as error:
        reason = _WHERE.sub("", str(error).splitlines()[0].strip().rstrip("."))
        raise ConfigError(
            f"{key}={text}: {reason}. Write a distribution such as uniform(0.1,0.2), or a text in quotes of its own."
        ) from None


@cache
def _parser() -> OverridesParser:
    """Hydra's own parser, which knows our distributions as functions too, and null in a choice; ``int`` casts."""
    functions = create_functions()
    del functions.functions["choice"], functions.definitions["choice"]
    functions.register("choice", _chosen)
    for name in DISTRIBUTIONS.keys() - functions.functions.keys():
        functions.register(name, partial(_called, name))
    return OverridesParser(functions)


def _chosen(*values: Any) -> ChoiceSweep:
    if len(values) == 1 and isinstance(values[0], ChoiceSweep):  # as choice(int(1,2)) makes it
        return values[0]
    return ChoiceSweep(list=list(values))


def _called(name: str, /, *positional: Any, **named: Any) -> _Call:
    return _Call(name, positional, named)


def _from_call(call: _Call, key: str) -> Distribution:
    names = _arguments(DISTRIBUTIONS[call.type])
    if len(call.positional) > len(names):
        raise ConfigError(
            f"{key}: {call.type} takes {', '.join(names)}, got {len(call.positional)} values. Leave out the last."
        )
    given = dict(zip(names, call.positional, strict=False))
    twice = given.keys() & call.named.keys()
    if twice:
        raise ConfigError(f"{key}: {call.type} has {', '.join(sorted(twice))} twice. Give each once.")
    return _from_mapping({"type": call.type, **given, **call.named}, key)


def _from_mapping(given: Mapping[Any, Any], key: str) -> Distribution:
    kind = DISTRIBUTIONS.get(given["type"]) if isinstance(given["type"], str) else None
    if kind is None:
        raise ConfigError(
            f"{key}: no distribution {given['type']!r}.{nearest(str(given['type']), list(DISTRIBUTIONS))}"
            f" There are {', '.join(DISTRIBUTIONS)}."
        )
    names = _arguments(kind)
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = kind.aliases.get(name, name)
        if name == "type":
            continue
        if own not in names:
            raise ConfigError(f"{key}: {kind.type} has no {name!r}. It takes {', '.join(names)}.")
        if own in found:
            raise ConfigError(f"{key}: {kind.type} has {own} twice. Give it once.")
        found[own] = _plain(value, key)
    missing = [name for name, needed in names.items() if needed and name not in found]
    if missing:
        raise ConfigError(f"{key}: {kind.type} needs {' and '.join(missing)} too. It takes {', '.join(names)}.")
    return kind(key=key, **found)


def _arguments(kind: type[Distribution]) -> dict[str, bool]:
    """The names of its arguments in their order, and whether each must be given."""
    return {item.name: item.default is MISSING for item in fields(kind) if item.name != "key"}


def _from_sweep(sweep: Sweep, key: str) -> Distribution:
    if getattr(sweep, "shuffle", False):
        raise ConfigError(f"{key}: shuffle() is without effect here, for the sampler sets the order. Leave it out.")
    logarithmic = sweep.tags == {"log"} and isinstance(sweep, IntervalSweep)
    if sweep.tags and not logarithmic:
        tags = ", ".join(sorted(sweep.tags))
        raise ConfigError(f"{key}: no meaning for tag({tags}, …). The one tag is log, and it goes with interval().")
    if isinstance(sweep, ChoiceSweep):
        return Choice(key=key, values=_plain(sweep.list, key))
    if isinstance(sweep, IntervalSweep):
        return _from_interval(sweep, key, logarithmic=logarithmic)
    if isinstance(sweep, RangeSweep):
        return _from_range(sweep, key)
    raise ConfigError(f"{key}: no distribution for {type(sweep).__name__}. Write choice(…) or interval(…).")


def _from_interval(sweep: IntervalSweep, key: str, *, logarithmic: bool) -> Distribution:
    low: Any = sweep.start
    high: Any = sweep.end
    if isinstance(low, int) and isinstance(high, int):  # as int(interval(1,5)) makes it
        return Integer(key=key, low=low, high=high, log=logarithmic)
    return (LogUniform if logarithmic else Uniform)(key=key, min=low, max=high)


def _from_range(sweep: RangeSweep, key: str) -> Distribution:
    """The stop is excluded, as hydra has it; a range downwards holds the same numbers as one upwards."""
    start, stop, step = (Decimal(repr(number)) for number in (sweep.start, sweep.stop, sweep.step))
    count = int(((stop - start) / step).to_integral_value(ROUND_CEILING)) if step else 0
    if count < 1:
        raise ConfigError(f"{key}: range({start},{stop},{step}) holds no number. Give a stop beyond the start.")
    ends = sorted((start, start + step * (count - 1)))
    if all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step)):
        return Integer(key=key, low=int(ends[0]), high=int(ends[1]), step=abs(int(step)))
    return Stepped(key=key, low=float(ends[0]), high=float(ends[1]), step=abs(float(step)))


def _globbed(glob: Glob, key: str, choices_of: ChoicesOf | None) -> Sequence[str]:
    names = glob.filter(list(choices_of(key.lstrip("+")))) if choices_of else []
    if not names:
        raise ConfigError(f"{key}: glob() finds no {key} such as {', '.join(glob.include)}. Write choice(…).")
    return names


def _plain(value: Any, key: str) -> Any:
    """The value in Python's own types."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Mapping):
        return {name: _plain(item, key) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, key) for item in value]
    if isinstance(value, (_Call, Sweep, Glob, Distribution)):
        raise ConfigError(f"{key}: a distribution cannot be within another value. Write choice() of whole values.")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ConfigError(f"{key}={value!r}: a {type(value).__name__} is no plain value. Give a text or a number.")
    return value
