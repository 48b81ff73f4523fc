"""Values get onto a command line and come back as they were."""

import math

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.overrides import as_overrides, dotted

NASTY = st.text(st.sampled_from("\\'\"${}[](),:= \n\tab.?1e-é") | st.characters(codec="utf-8"), max_size=12)
TEXTS = NASTY.filter(lambda text: text != "???")
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,5}", fullmatch=True).filter(lambda key: key.lower() not in WORDS)
WORDS = {"null", "true", "false", "inf", "nan"}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3), max_leaves=6
)


def composed(override):
    """What hydra makes of an override, as it applies it to a configuration."""
    (parsed,) = OverridesParser.create().parse_overrides([override])
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, parsed.key_or_group, parsed.value(), merge=True)
    return OmegaConf.to_object(config)["key"]


def check_round_trip(value):
    (override,) = as_overrides({"key": value})
    found = composed(override)
    assert (repr(found), type(found)) == (repr(value), type(value))


@settings(deadline=None, max_examples=400)
@given(TEXTS)
def test_any_text_composes_back_to_itself(text):
    check_round_trip(text)


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_any_value_composes_back_to_itself(value):
    check_round_trip(value)


@pytest.mark.parametrize("value", ["a,b", "${x}", r"\${x}", "${", r"a\\${x}\\", "it's", r"\'", "a\\", "a\\\n", ""])
def test_these_texts_compose_back_to_themselves(value):
    check_round_trip(value)


@pytest.mark.parametrize("value", ["null", "1e-3", "[1]", "true", " ", "{a: 1}", "10", "nan"])
def test_a_text_that_looks_like_another_type_stays_a_text(value):
    check_round_trip(value)


@pytest.mark.parametrize("value", [None, True, False, 1, -3, 1e-3, 1e22, -1e-300, 5e-324, 10**30, math.inf, -math.inf])
def test_scalars_compose_back_to_themselves(value):
    check_round_trip(value)


@pytest.mark.parametrize(
    "value", [[], {}, [[None]], {"a": ["${b}"]}, {"a b": 1, "x:y": 2, "c,d": 3, "e=(f)": 4}, {1: "one", 0.5: "half"}]
)
def test_lists_and_mappings_compose_back_to_themselves(value):
    check_round_trip(value)


def test_not_a_number_stays_none():
    assert math.isnan(composed(as_overrides({"key": math.nan})[0]))


@pytest.mark.parametrize("value", [{"1": "a text as key"}, {"it's": 1}, {"": 1}, {"null": 1}, "???", ["???"], object()])
def test_what_hydra_cannot_read_is_refused(value):
    with pytest.raises(ConfigError, match=r"^key"):
        as_overrides({"key": value})


@settings(deadline=None, max_examples=300)
@given(NASTY)
def test_a_mapping_key_is_read_back_or_refused(name):
    try:
        (override,) = as_overrides({"key": {name: 1}})
    except ConfigError:
        return
    assert composed(override) == {name: 1}


def test_groups_come_first_and_without_quotes():
    values = {"model.size": "small", "model": "yolov5", "lr": 0.1, "augment": "none", "experiment": "mine"}
    assert as_overrides(values) == [
        "model=yolov5",
        "augment=none",
        "+experiment=mine",
        "model.size='small'",
        "lr=0.1",
    ]
    assert as_overrides({"model": "null", "logger": None}) == ["model='null'", "logger='null'"]


def test_an_interpolation_is_one_only_where_it_is_asked_for():
    assert as_overrides({"key": "${x}"}, literal=False) == ["key='${x}'"]
    assert composed(as_overrides({"key": "${x}"})[0]) == "${x}"


def test_nested_groups_become_dotted_keys():
    values = {"model": {"name": "resnet18", "pretrained": False}, "training": {"momentum": {"type": "uniform"}}}
    assert list(dotted(values, whole="type")) == [
        ("model", "resnet18"),
        ("model.pretrained", False),
        ("training.momentum", {"type": "uniform"}),
    ]


def test_drawn_values_reach_the_composed_configuration():
    register()
    values = {
        "task": "image_object_detection",
        "model": "yolov5",
        "augment": "none",
        "model.model_size": "medium",
        "training.learning_rate": 1.5e-05,
        "data.training": "it's ${x}, a=b\\",
        "data.validation": None,
    }
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose(config_name="config", overrides=as_overrides(values))
    assert (config.task.name, config.model.name) == ("image_object_detection", "yolov5")
    assert {key: OmegaConf.select(config, key) for key in values if "." in key} == {
        key: value for key, value in values.items() if "." in key
    }
