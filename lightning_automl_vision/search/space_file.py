"""The space of a sweep as a file in its folder, which can be read, edited, and searched again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.run import write
from lightning_automl_vision.search.overrides import quoted
from lightning_automl_vision.search.reading import distribution_of
from lightning_automl_vision.search.spaces import Space, Spaces, spaces_of
from lightning_automl_vision.search_settings import SAMPLERS

if TYPE_CHECKING:
    from lightning_automl_vision.search.asking import Asked

SPACE = Path("search") / "space.yaml"
_ONLY = "all"  # the name of a space that has none
_AUTOMATIC, _AFTER = "automode", "bayesian"  # and what searches on in the spaces that the former chose


_INTRODUCTION = """\
# What this sweep draws from. Edit it, or a copy in search/ below another folder, and begin a sweep of your own with
"""


def write_space(folder: Path, asked: Asked, *, aloud: bool = False) -> None:
    """A sweep that goes on leaves the file as it is; said ``aloud`` is how a sweep over an edited one is begun."""
    file, command = folder / SPACE, _command(folder, asked.arguments)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, f"{_INTRODUCTION}#   {command}\n{_as_text(asked.spaces, asked.sampler, asked.policy)}")
    if aloud:
        LOG.info("What is tried stands in %s; edited, it is searched by: %s", file, command)


def read_space(folder: Path) -> tuple[Spaces, Any]:
    """The spaces, and the policy if there was one."""
    file = folder / SPACE
    try:
        content = OmegaConf.load(file)
        plain: Any = OmegaConf.to_container(content, resolve=False)
        return spaces_of(OmegaConf.create(plain["spaces"])), plain.get("early_termination")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file. Repeat the command of the sweep, which writes it.") from None
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{file} cannot be understood: {reason}. Delete it, and repeat the sweep's command."
        ) from None


def document(spaces: Spaces) -> dict[str, Any]:
    """As `search.spaces` holds them, so that they are read back as they are."""
    return {space.name or _ONLY: _keys(space) for space in spaces.spaces}


def _keys(space: Space) -> dict[str, Any]:
    fixed = {key: _fixed(value, key) for key, value in space.fixed.items()}
    return {**fixed, **{key: _without_meaning(law.as_dict()) for key, law in space.free.items()}}


def _fixed(value: Any, key: str) -> Any:
    """A text that would be read as something else stands in quotes of its own."""
    if isinstance(value, Mapping):
        return {"type": "choice", "values": [_without_meaning(value)]}
    if isinstance(value, str) and not _is_itself(value, key):
        value = quoted(value, key, literal=False)
    return _without_meaning(value)


def _is_itself(text: str, key: str) -> bool:
    try:
        return bool(distribution_of(text, key) == text)
    except ConfigError:
        return False


def _without_meaning(value: Any) -> Any:
    """Interpolations stay the texts they are."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {name: _without_meaning(item) for name, item in value.items()}
    return [_without_meaning(item) for item in value] if isinstance(value, (list, tuple)) else value


def _as_text(spaces: Spaces, sampler: Any, policy: Any) -> str:
    base = sampler if sampler in SAMPLERS and sampler != _AUTOMATIC else _AFTER
    content: dict[str, Any] = {"defaults": [base, "_self_"]}
    if isinstance(sampler, Mapping) or OmegaConf.is_config(sampler):
        content["sampler"] = _plain(sampler)
    if policy is not None:
        content["early_termination"] = _plain(policy)
    content["spaces"] = document(spaces)
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return text


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _command(folder: Path, arguments: Sequence[str]) -> str:
    """Hydra takes one --config-dir; a second folder is a search path."""
    words = [*arguments]
    where = ["--config-dir", str(folder)]
    if "--config-dir" in words:
        begin = words.index("--config-dir")
        where, words = [*words[begin : begin + 2], f"hydra.searchpath=['{folder}']"], words[:begin] + words[begin + 2 :]
    return shlex.join(["lav", *where, f"+search={SPACE.stem}", *words, "limits.max_trials=20", "output_dir=NEW"])
