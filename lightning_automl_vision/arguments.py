"""The command line's sugar: ``lav VERB [RUN …] key=value …`` becomes Hydra overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.jobs import VERBS, job_configs
from lightning_automl_vision.keys import nearest

GROUPS = ("task", "model", "data", "augment", "tiler", "training", "trainer", "limits", "search", "job", "logger")
# Root keys and groups win over a verb's own keys of the same name.
ROOT = {*GROUPS, "experiment", "output_dir", "checkpoint", "runs", "quiet", "resume"}
# The verbs that are given no run, and the key that was probably meant.
_WITHOUT_RUNS = {
    "train": "data.training",
    "inspect": "data.training",
    "plan": "data.training",
    "models": "for_task",
    "convert": "input",
    "convert-weights": "input",
}
# Keys whose value is a mapping with keys of its own, which hydra would merge into the one that is there.
_OPEN = (
    "search.early_termination",
    "search.sampler",
    "hydra.sweeper.sampler",
    "hydra.sweeper.params",
    "serve.deployments",
    "serve.traffic",
)
_SWEEP = ("-m", "--multirun")
# What hydra reads as something else than a text.
_NO_TEXT = re.compile(r"null|true|false|[+-]?(?:inf|nan|[\d.][\w.+-]*)", re.ASCII | re.IGNORECASE)
# Of hydra's own: what shows a configuration, and runs nothing.
_SHOWN_ALONE = ("--cfg", "-c", "--info", "-i")


def rewrite(arguments: Sequence[str]) -> list[str]:
    """Hydra's arguments for ours."""
    arguments = [text for argument in arguments for text in _opened(_as_name(_as_text(argument)), arguments)]
    if any(map(_is_for_automode, arguments)) and not any(word.startswith("+search=") for word in arguments):
        arguments = [*arguments, "+search=automode"]
    begins = any(map(_begins_sweep, arguments)) and "plan" not in arguments[:1]  # which looks at a sweep from outside
    begins = (begins or any(map(_is_of_sweeper, arguments))) and not {*arguments} & {*_SHOWN_ALONE}
    if begins or {*arguments[1:]} & {*_SWEEP}:  # hydra takes it at either end alone
        arguments = [*(argument for argument in arguments if argument not in _SWEEP), _SWEEP[1]]
    if not arguments or not _is_word(arguments[0]):
        return arguments
    verb, *rest = arguments
    if verb not in VERBS:
        raise ConfigError(
            f"No verb {verb!r}.{nearest(verb, VERBS)} The verbs are {', '.join(VERBS)}; a key is KEY=VALUE."
        )
    runs = []
    while rest and _is_word(rest[0]):
        runs.append(rest.pop(0))
    own = {field.name for field in fields(job_configs()[verb])} - ROOT
    for argument in rest:
        _check_key(verb, argument, own)
    return [f"job={verb}", *_named_runs(verb, runs), *(_qualified(argument, own) for argument in rest)]


def is_group(key: str) -> bool:
    """Whether the key chooses a file of a config group, such as ``model`` or ``hydra/launcher``."""
    name = key.lstrip("+")
    return name in GROUPS or name == "experiment" or "/" in name


def check_one_choice(key: str, names: Sequence[object]) -> None:
    """Of several, hydra would take the last one for most groups; experiments, loggers and its own are merged."""
    group, several = key.lstrip("+"), ",".join(map(str, names))
    if group in GROUPS and group != "logger":
        raise ConfigError(
            f"{group}=[{several}]: one {group} is chosen, and this is a list. A sweep over several is written -m"
            f" {key}={several}, in a space choice({several})."
        )


def _opened(argument: str, arguments: Sequence[str]) -> list[str]:
    """A mapping takes the place of what was said before; a key of it is added where it is not there."""
    key, _, value = argument.partition("=")
    owner = next((name for name in _OPEN if key == name or key.startswith(f"{name}.")), None)
    if owner is None or (owner.startswith("hydra.sweeper.") and _has_another_sweeper(arguments)):
        return [argument]
    if key != owner:
        return [f"++{argument}"]
    if value[:1] == "{":
        return [f"{key}=null", f"++{argument}"]
    if key == "hydra.sweeper.sampler" and value.isidentifier() and value != "null":
        return [f"++{key}.name={value}"]  # which a seed may stand beside
    return [argument]


def _has_another_sweeper(arguments: Sequence[str]) -> bool:
    return any(text.startswith("hydra/sweeper=") and text != "hydra/sweeper=automl" for text in arguments)


def _check_key(verb: str, argument: str, own: set[str]) -> None:
    """A verb's own key, misspelt, would be taken for a group that there is not."""
    name = argument.lstrip("+~").partition("=")[0]
    known = name.partition(".")[0] in own | ROOT
    hint = "" if known else nearest(name, sorted(own | ROOT))
    if "=" in argument and any(repr(key) in hint for key in own):
        raise ConfigError(f"lav {verb} has no key {name!r}.{hint} `lav {verb} --help` lists its keys.")


def _begins_sweep(argument: str) -> bool:
    key, _, value = argument.partition("=")
    return key == "+search" or (key == "limits.max_trials" and value.isdigit() and int(value) > 1)


def _is_of_sweeper(argument: str) -> bool:
    """What a sweep alone obeys; one trial is what there is without one."""
    key = argument.lstrip("+~").partition("=")[0]
    return key.startswith(("hydra.sweeper.", "hydra/sweeper")) and argument != "hydra.sweeper.n_trials=1"


def _is_for_automode(argument: str) -> bool:
    return argument.startswith(("search.portfolio=", "search.candidates="))


def _as_text(argument: str) -> str:
    """What hydra's grammar has no form for is a text: a value in round brackets, as an old grid, and a requirement."""
    key, _, value = argument.partition("=")
    named = key.removeprefix("job.") in ("require", "operating_points.rule")
    is_text = (value[:1] == "(" and value[-1:] == ")") or (named and value[:1] not in "'\"")
    return f"{key}='{value}'" if is_text and "'" not in value else argument


def _as_name(argument: str) -> str:
    """A choice is looked up by the name that is written, whatever else hydra would take it for."""
    key, _, value = argument.partition("=")
    if not is_group(key):
        return argument
    if value[:1] == "[" and value[-1:] == "]":
        check_one_choice(key, [name.strip() for name in value[1:-1].split(",")])
    return f"{key}='{value}'" if _NO_TEXT.fullmatch(value) else argument


def _is_word(argument: str) -> bool:
    return bool(argument) and "=" not in argument and argument[0] not in "-+~"


def _named_runs(verb: str, runs: Sequence[str]) -> list[str]:
    if not runs:
        return []
    if verb in _WITHOUT_RUNS:
        example = _WITHOUT_RUNS[verb]
        raise ConfigError(f"lav {verb} takes no {runs[0]!r}. Write KEY=VALUE, such as {example}={runs[0]}.")
    return [f"checkpoint={runs[0]}"] if len(runs) == 1 else [f"runs=[{','.join(runs)}]"]


def _qualified(argument: str, own: set[str]) -> str:
    key, equals, _ = argument.partition("=")
    prefix = key[: len(key) - len(key.lstrip("+"))]
    name = key.lstrip("+")
    if equals and name.split(".")[0] in own:
        return f"{prefix}job.{argument[len(prefix) :]}"
    return argument
