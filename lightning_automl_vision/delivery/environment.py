"""The packages that a model stands on, with their exact versions, as pip and conda read them."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points, requires

import yaml

from lightning_automl_vision.installed import version_of
from lightning_automl_vision.plugins import GROUP, models_by_plugin

PACKAGE = "lightning-automl-vision"


def pinned_packages(model: str, extra: Sequence[str] = ()) -> list[str]:
    """``name==version`` of this package, of what it needs and has, of the model's plugin, and of those named."""
    names = dict.fromkeys((PACKAGE, *_plugin_of(model), *_needed(), *extra))
    return [f"{name}=={_public(found)}" for name in names if (found := version_of(name))]


def requirements_text(packages: Sequence[str]) -> str:
    return "".join(f"{package}\n" for package in packages)


def conda_text(packages: Sequence[str]) -> str:
    """An environment of conda with this Python, in which pip installs the packages."""
    environment = {
        "name": PACKAGE,
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", "pip", {"pip": list(packages)}],
    }
    return str(yaml.safe_dump(environment, sort_keys=False))


def _needed() -> Iterator[str]:
    """What is always installed with this package."""
    for requirement in requires(PACKAGE) or ():
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and "extra ==" not in requirement:
            yield name[0]


def _plugin_of(model: str) -> Iterator[str]:
    """The package of the plugin, where that is not this one."""
    plugins = [plugin for plugin, specs in models_by_plugin().items() if model in {spec.name for spec in specs}]
    for entry in entry_points(group=GROUP):
        if entry.name in plugins and entry.dist is not None:
            yield entry.dist.name


def _public(installed: str) -> str:
    """Without what tells builds of one version apart, such as +cpu: registries do not know it."""
    return installed.partition("+")[0]
