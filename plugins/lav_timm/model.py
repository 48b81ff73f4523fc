"""A timm classifier as a VisionModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import group_parameters
from torch import Tensor, nn

from lav_timm.architectures import ARCHITECTURES
from lav_timm.groups import Groups
from lav_timm.weights import locate, published_weights
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.export.graph import BATCH, Graph
from lightning_automl_vision.models import Classifier


class TimmClassifier(Classifier):
    """``image_size`` is set where the architecture takes images of that size only."""

    def __init__(self, network: nn.Module, *, image_size: int | None, **options: Any) -> None:
        super().__init__(network, **options)
        self.image_size = image_size

    def graph(self, choices: Mapping[str, str]) -> Graph:
        graph = super().graph(choices)
        return graph if self.image_size is None else replace(graph, axes=BATCH)

    def forward(self, images: Tensor) -> Tensor:
        sides = tuple(images.shape[-2:])
        if self.image_size is not None and sides != (self.image_size, self.image_size):
            raise ConfigError(
                f"This architecture was built for {self.image_size} x {self.image_size} pixels and got"
                f" {sides[1]} x {sides[0]}. Set training.training_crop_size and training.validation_crop_size alike."
            )
        return super().forward(images)


def build(
    *,
    architecture: str,
    task: str,
    num_classes: int,
    image_size: int,
    pretrained: bool = True,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
) -> TimmClassifier:
    """The head is always new; the layer groups are those that timm itself tells apart."""
    published = published_weights(architecture)
    fixed_size = image_size if published.fixed_input_size else None
    options = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, "img_size": fixed_size}
    if pretrained:
        network = _pretrained_network(architecture, options)
        network.reset_classifier(num_classes)
    else:
        network = _network(architecture, {**options, "num_classes": num_classes})
    return TimmClassifier(
        network,
        image_size=fixed_size,
        multilabel=task == "image_classification_multilabel",
        mean=published.mean,
        std=published.std,
        freezable=layer_groups(network),
    )


builders = SimpleNamespace(
    **{name: partial(build, architecture=architecture.name) for name, architecture in ARCHITECTURES.items()}
)


def _network(architecture: str, options: dict[str, Any], **loading: Any) -> Any:
    """timm's model; what it cannot be told is a fault of the configuration."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return timm.create_model(architecture, **given, **loading)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"timm cannot build {architecture} with"
            f" {', '.join(f'{name}={value}' for name, value in given.items())}: {' '.join(str(error).split())}."
        ) from error


def _pretrained_network(architecture: str, options: dict[str, Any]) -> Any:
    """With its published head first, so that every tensor must fit and nothing is left at random unnoticed."""
    weights = locate(architecture, published_weights(architecture))
    try:
        return _network(architecture, options, pretrained=True, pretrained_cfg_overlay=weights.as_overlay())
    except (RuntimeError, OSError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        size = f" at {options['img_size']} pixels" if options["img_size"] else ""
        raise WeightsError(
            f"{weights.path} does not hold the weights of {architecture}{size}: {' '.join(str(error).split())[:300]}."
            " Delete it to have it downloaded again, or train from scratch with model.pretrained=false."
        ) from error


def layer_groups(network: Any) -> Groups:
    """timm's own coarse layers, from the input on, without the head."""
    head = tuple(f"{name}." for name in _names(network.pretrained_cfg.get("classifier")))
    layers = group_parameters(network, network.group_matcher(coarse=True))
    groups = (
        tuple(dict.fromkeys(_prefix(network, name) for name in layers[layer] if not name.startswith(head)))
        for layer in sorted(layers)
    )
    return tuple(filter(None, groups))


def _names(names: str | Sequence[str] | None) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names or ()


def _prefix(network: nn.Module, parameter: str) -> str:
    """The parameter's module, so that its running statistics belong too; its own name where the module holds more."""
    owner = parameter.rpartition(".")[0]
    alone = owner and not any(list(child.parameters()) for child in network.get_submodule(owner).children())
    return f"network.{owner}." if alone else f"network.{parameter}"
