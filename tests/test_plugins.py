"""How plugins are found, and what happens when one is broken."""

import pluggy
import pytest

from lightning_automl_vision import hookspecs
from lightning_automl_vision.config_errors import known_keys
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.keys import check_ranges
from lightning_automl_vision.plugins import model_spec, model_specs
from lightning_automl_vision.specs import TASKS
from lightning_automl_vision.typed_nodes import typed_nodes

NAMES = {
    "mobilenetv2",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "resnest50",
    "resnest101",
    "seresnext",
    "vits16r224",
    "vitb16r224",
    "vitl16r224",
}


def test_the_documented_classification_models_are_on_offer():
    for task in ("image_classification", "image_classification_multilabel"):
        assert {spec.name for spec in model_specs().values() if task in spec.tasks} >= NAMES


def test_an_unknown_model_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"No model 'resnet19'. Did you mean 'resnet18'\?"):
        model_spec("resnet19")


def test_every_default_of_every_model_is_within_its_range():
    keys = dict(known_keys())
    of_models = [(spec.name, values) for spec in model_specs().values() for values in spec.defaults.values()]
    of_tasks = [(task.name, {**task.defaults, **task.unused}) for task in TASKS.values()]
    for owner, values in [*of_models, *of_tasks]:
        for name, value in values.items():
            key = keys[name if "." in name else f"training.{name}"]
            assert key.fault(value) is None, (owner, name, value)


def test_every_model_node_is_within_its_ranges():
    for (group, name), node in typed_nodes().items():
        if group == "model":
            check_ranges(node, f"model {name}")


def test_a_misspelt_hook_is_an_error():
    class Plugin:
        @hookspecs.hookimpl
        def lav_modles(self):
            return []

    manager = pluggy.PluginManager("lightning_automl_vision")
    manager.add_hookspecs(hookspecs)
    manager.register(Plugin())
    with pytest.raises(pluggy.PluginValidationError, match="lav_modles"):
        manager.check_pending()
