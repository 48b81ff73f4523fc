"""Turns what hydra and omegaconf complain of into one line that names the right key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException

from lightning_automl_vision.keys import Key, as_written, described, nearest
from lightning_automl_vision.typed_nodes import typed_nodes

_SHOWN = 4
ROOT_KEYS = ("output_dir", "checkpoint", "runs", "quiet", "resume")
# Documented names of other products that are no key here, and what takes their place.
ELSEWHERE = {
    "model_name": "model=NAME",
    "task_type": "task=NAME",
    "checkpoint_dataset_id": "training.checkpoint_path=FILE",
    "training_data": "data.training=PATH",
    "validation_data": "data.validation=PATH",
}


def explain(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """One line: what, where, why, the way out; of a command line that has these ``arguments``."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return _distribution(error.override) or (
            f"Cannot read the argument {as_written(str(error.override))!r}. Put a value with spaces, brackets, commas"
            """ or equal signs in two pairs of quotes: 'key="value"'."""
        )
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if found := re.match(r"Ambiguous value for argument '(.*)'\n", str(error)):
        return _several_values(found[1], arguments)
    if found := re.match(r"Sweep parameters '(.*?)' requires", str(error)):
        return (
            f"{found[1]}: several values are a sweep, one trial for each. Add -m, or limits.max_trials=N;"
            " lav plan looks at one training, or at AutoMode."
        )
    if found := re.search(r"Key '(.*)' not in 'SweeperConfig'", f"{error}\n{cause}"):
        from lightning_automl_vision.search.sweeper_keys import unknown_key as unknown_sweeper_key

        return unknown_sweeper_key(found[1])
    if isinstance(error, ConfigCompositionException):
        override = _override_in(str(error))
        if "No match in the defaults list" in str(error):
            return _unknown_group(str(error))
        if override and ("Could not override" in str(error) or "not in struct" in str(cause)):
            return unknown_key(override)
        if override and cause is not None and re.search(r"Key '.*' not in", str(cause)):
            return unknown_key(override)
        missing = re.search(r"full_key: (\S+)", f"{error}\n{cause}")
        if not override and missing:
            return unknown_key(missing[1])
        if override and cause is not None:
            return f"{as_written(override)}: {_first_line(cause)}.{hint_of_range(override)}"
    return _first_line(error)


def _several_values(override: str, arguments: Sequence[str]) -> str:
    override = as_written(override)
    key, _, value = override.partition("=")
    way = "begin with -m"
    if "job=plan" in arguments:
        way = "lav plan looks at one training, or at AutoMode; give one value, or begin the sweep with -m in its place"
    return (
        f"{override}: several values are a sweep, one trial for each: {way}. A single value with commas is quoted:"
        f" '{key}=\"{value}\"'."
    )


def unknown_key(override: str) -> str:
    """The line for a key that does not exist, with the name that was probably meant."""
    name = as_written(override.lstrip("+~").partition("=")[0])
    group, _, rest = name.rpartition(".")
    known = {as_written(full): full for full, _ in known_keys()}
    leaf = rest or name
    if name in known:
        way = " Add +search=NAME." if group == "search" else ""
        elsewhere = [full for full in known if not group and full.endswith(f".{name}")]
        more = f" There is {' and '.join(elsewhere)} too." if elsewhere else ""
        return f"There is no key {name!r} in what is chosen: it belongs to {_owners(known[name])}.{way}{more}"
    if leaf in ELSEWHERE:
        return f"There is no key {name!r}: write {ELSEWHERE[leaf]}."
    renamed = _called_before(leaf)
    moved = [full for full in known if full.rpartition(".")[2] == leaf and full != name]
    if renamed or moved:
        return f"There is no key {name!r}: it is called {' and '.join(renamed or moved)}."
    hint = nearest(name, [*known, *ROOT_KEYS])
    below = [full for full in known if full.startswith(f"{group}.")] if group else []
    if hint or not below:
        return f"There is no key {name!r}.{hint} All keys are in docs/keys.md."
    return f"There is no key {name!r}. The keys of {group} are {', '.join(full.rpartition('.')[2] for full in below)}."


def hint_of_range(override: str) -> str:
    """`` Allowed: …``: what a key may be, where its range says so and all nodes that have it agree."""
    name = override.lstrip("+~").partition("=")[0]
    allowed = {
        key.allowed
        for (group, _), node in typed_nodes().items()
        if name.startswith(f"{group}.")
        for key in described(node, group)
        if key.name == name and key.key.allowed
    }
    return f" Allowed: {allowed.pop()}." if len(allowed) == 1 else ""


def _distribution(override: str) -> str:
    """For a distribution that hydra's command line has no form for: the one that says the same, or none."""
    from lightning_automl_vision.search.reading import DISTRIBUTIONS

    key, _, value = override.lstrip("+").partition("=")
    found = re.fullmatch(r"(\w+)\((.*)\)", value)
    if found is None or found[1] not in DISTRIBUTIONS:
        return ""
    same = {"uniform": f"{key}=interval({found[2]})", "loguniform": f"{key}=tag(log, interval({found[2]}))"}
    other = f'hydra.sweeper.params={{{key}: "{value}"}}'
    ways = " or ".join(f"'{way}'" for way in (same.get(found[1]), other) if way)
    return f"{override}: the command line has no {found[1]}(). Write {ways} with -m, or put it into search.spaces."


def known_keys() -> Iterator[tuple[str, Key]]:
    """Every typed key by its full name; of a group's several nodes, the keys of all."""
    seen: set[str] = set()
    for (group, _), node in typed_nodes().items():
        for found in described(node, group):
            if found.name not in seen:
                seen.add(found.name)
                yield found.name, found.key


def _called_before(leaf: str) -> list[str]:
    """The keys that had this name; each node of a group may know old names of its own."""
    found = (
        as_written(key.name)
        for (group, _), node in typed_nodes().items()
        for key in described(node, group)
        if leaf in key.key.old
    )
    return list(dict.fromkeys(found))


def _owners(name: str) -> str:
    """The choices that have a key, as they are written; not too many."""
    group = name.partition(".")[0]
    owners = [
        choice
        for (owner, choice), node in typed_nodes().items()
        if owner == group and not choice.startswith("default_for_") and name in {f.name for f in described(node, group)}
    ]
    before = {"search": "+search=", "job": "lav "}.get(group, f"{group}=")
    shown = ", ".join(f"{before}{choice}" for choice in owners[:_SHOWN])
    return f"{shown} and {len(owners) - _SHOWN} more" if len(owners) > _SHOWN else shown


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = [option for option in error.options or [] if not option.startswith("default_for_")]
    if not group:
        return _first_line(error)
    if options == ["default"]:
        return f"{group} has no choices but keys: write {group}.KEY=VALUE. `lav --help {group}` lists them."
    return f"No {group} {name!r}.{nearest(name, options)} Choose from: {', '.join(options)}."


def _unknown_group(text: str) -> str:
    match = re.search(r"'(.+?)'", text)
    name = match.group(1) if match else ""
    groups = sorted({group for group, _ in typed_nodes()} | {"experiment", "search", "logger"})
    hint = nearest(name, [*groups, *ROOT_KEYS])
    if name in ("experiment", "search"):
        return f"{name} is added, not overridden: write +{name}=NAME."
    return unknown_key(name) if not hint else f"There is no config group {name!r}.{hint}"


_OVERRIDE = re.compile(r"(?:Could not override|Error merging override|An item is already at) '?(.+?)'?\.?$")


def _override_in(text: str) -> str:
    match = _OVERRIDE.search(text.splitlines()[0])
    found = match.group(1) if match else ""
    return f"{found}'" if found.count("'") % 2 else found  # a quote that belongs to the value


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
