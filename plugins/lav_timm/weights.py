"""Finds the pretrained weights of a timm architecture: on disk, else downloaded into the usual cache."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import PretrainedCfg
from timm.models._hub import get_cache_dir

from lav_timm.architectures import ARCHITECTURES
from lightning_automl_vision.downloads import check_connection, hub_file, unreachable
from lightning_automl_vision.errors import ConfigError, WeightsError

ARCHITECTURE = "model.architecture"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """``custom`` files are in the format of the architecture's authors, which timm converts."""

    path: str
    custom: bool = False

    def as_overlay(self) -> dict[str, Any]:
        """What makes timm load this file rather than look for one."""
        return {"file": self.path, "custom_load": self.custom}


def find_weights(*, architecture: str, pretrained: bool, **_: Any) -> None:
    """Refuse an unknown architecture; with ``pretrained``, have the weights on disk when this returns."""
    published = published_weights(architecture)
    if pretrained:
        locate(architecture, published)


finders = SimpleNamespace(
    **{name: partial(find_weights, architecture=architecture.name) for name, architecture in ARCHITECTURES.items()}
)


def published_weights(architecture: str, key: str = ARCHITECTURE) -> PretrainedCfg:
    """What timm knows of an architecture, or of the given tag of its weights; errors name the configuration key."""
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.6)
        hint = f"Near it are {', '.join(near)}." if near else _way_out(key)
        raise ConfigError(f"{key}={architecture}: timm has no such architecture. {hint}")
    try:
        return timm.get_pretrained_cfg(architecture) or PretrainedCfg(architecture=name)
    except RuntimeError:
        tags = ", ".join(timm.list_pretrained(f"{name}.*")) or "none"
        raise ConfigError(
            f"{key}={architecture}: timm has no weights tagged {tag!r} for {name}. It has: {tags}."
        ) from None


def _way_out(key: str) -> str:
    """Only one of the keys must be given."""
    way_out = "Name a timm network, such as resnet50"
    return f"{way_out}." if key == ARCHITECTURE else f"{way_out}, or leave {key} out."


def locate(architecture: str, published: PretrainedCfg) -> WeightsFile:
    """The weights' file, looked up on disk first, so that a cached model needs no network."""
    found = next(_cached(published), None)
    if found is not None:
        return found
    if published.hf_hub_id:
        return _from_hub(architecture, published.hf_hub_id, _hub_files(published))
    if published.url:
        return _from_url(architecture, published)
    raise WeightsError(
        f"timm publishes no pretrained weights for {architecture}."
        " Give a local file with model.weights=FILE, or train from scratch with model.pretrained=false."
    )


def _cached(published: PretrainedCfg) -> Iterator[WeightsFile]:
    if published.hf_hub_id:
        repository, _, revision = published.hf_hub_id.partition("@")
        for name in _hub_files(published):
            path = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(path, str):
                yield WeightsFile(path=path)
    if published.url:
        path = os.path.join(get_cache_dir(), os.path.basename(urlsplit(str(published.url)).path))
        if os.path.isfile(path):
            yield WeightsFile(path=path, custom=bool(published.custom_load))


def _hub_files(published: PretrainedCfg) -> tuple[str, ...]:
    return (published.hf_hub_filename,) if published.hf_hub_filename else HUB_FILES


def _from_hub(architecture: str, hub_id: str, names: tuple[str, ...]) -> WeightsFile:
    place, folder = f"{constants.ENDPOINT}/{hub_id}", constants.HF_HUB_CACHE
    repository, _, revision = hub_id.partition("@")
    if constants.HF_HUB_OFFLINE:
        raise unreachable(architecture, place, folder, "HF_HUB_OFFLINE is set")
    check_connection(place, of=architecture, folder=folder)
    for name in names:
        try:
            return WeightsFile(path=hf_hub_download(repository, name, revision=revision or None))
        except LocalEntryNotFoundError as error:
            raise unreachable(architecture, place, folder, str(error)) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # whatever a proxy, a full disk or the hub answers
            raise unreachable(architecture, place, folder, str(error)) from error
    raise unreachable(architecture, place, folder, f"there is no {' or '.join(names)}")


def _from_url(architecture: str, published: PretrainedCfg) -> WeightsFile:
    return WeightsFile(path=str(hub_file(str(published.url), of=architecture)), custom=bool(published.custom_load))
