"""What may be tried: how it is written, and what is drawn of it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.trial import FixedTrial

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.distributions import Choice, Integer, LogUniform, QuantizedUniform, Stepped, Uniform
from lightning_automl_vision.search.latent import LogNormal, Normal, QuantizedLogNormal, QuantizedNormal
from lightning_automl_vision.search.reading import DISTRIBUTIONS, distribution_of
from lightning_automl_vision.search.spaces import Drawn, flat, spaces_of

KEY = "training.learning_rate"


def read(value):
    return distribution_of(value, KEY)


# What is written


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("interval(1e-4,1e-1)", Uniform(key=KEY, min=1e-4, max=1e-1)),
        ("tag(log, interval(1e-4, 1e-1))", LogUniform(key=KEY, min=1e-4, max=1e-1)),
        ("int(interval(1,5))", Integer(key=KEY, low=1, high=5)),
        ("tag(log,int(interval(1,64)))", Integer(key=KEY, low=1, high=64, log=True)),
        ("range(1,10,2)", Integer(key=KEY, low=1, high=9, step=2)),
        ("range(1,9,2)", Integer(key=KEY, low=1, high=7, step=2)),
        ("range(4)", Integer(key=KEY, low=0, high=3)),
        ("range(10,1,-3)", Integer(key=KEY, low=4, high=10, step=3)),
        ("range(0,1,0.1)", Stepped(key=KEY, low=0, high=0.9, step=0.1)),
        ("a,b,c", Choice(key=KEY, values=["a", "b", "c"])),
        ("choice('a',\"b\")", Choice(key=KEY, values=["a", "b"])),
        ("choice([1,2],{a: 3},null,true,1)", Choice(key=KEY, values=[[1, 2], {"a": 3}, None, True, 1])),
        ("sort(3,1,2)", Choice(key=KEY, values=[1, 2, 3])),
        ("int(1.0,2.0)", Choice(key=KEY, values=[1, 2])),
        ("uniform(0.1,0.2)", Uniform(key=KEY, min=0.1, max=0.2)),
        ("loguniform(0.0001,0.01)", LogUniform(key=KEY, min=1e-4, max=1e-2)),
        ("quniform(0, 100, q=5)", QuantizedUniform(key=KEY, min=0, max=100, q=5)),
        ("normal(mu=3, sigma=1)", Normal(key=KEY, mu=3, sigma=1)),
        ({"type": "loguniform", "min": "1e-4", "max": 1e-2}, LogUniform(key=KEY, min=1e-4, max=1e-2)),
        ({"type": "uniform", "min_value": 1, "max_value": 2}, Uniform(key=KEY, min=1, max=2)),
        ({"type": "int", "min": 1, "max": 5}, Integer(key=KEY, low=1, high=5)),
        ("{type: uniform, min: 1, max: 2}", Uniform(key=KEY, min=1, max=2)),
        (OmegaConf.create({"type": "choice", "values": ["1e-3", [1]]}), Choice(key=KEY, values=["1e-3", [1]])),
    ],
)
def test_all_ways_to_write_a_distribution(written, expected):
    assert read(written) == expected


def test_int_of_an_interval_includes_both_ends_and_is_made_of_integers():
    assert [type(read("int(interval(1,5))").suggest(FixedTrial({"x": end}), "x")) for end in (1, 5)] == [int, int]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("resnet18", "resnet18"),
        ("'a,b'", "a,b"),
        ("1e-3", 0.001),
        ("null", None),
        ("[1, x]", [1, "x"]),
        ("{a: 1}", {"a": 1}),
        ("", ""),
        (5, 5),
        (True, True),
        ([1, 2], [1, 2]),
        ({"a": "b,c"}, {"a": "b,c"}),
        (OmegaConf.create([1, {"a": "x"}]), [1, {"a": "x"}]),
    ],
)
def test_other_values_are_fixed(written, expected):
    found = read(written)
    assert (type(found), found) == (type(expected), expected)


def test_glob_picks_among_the_choices_of_the_group():
    found = distribution_of("glob([resnet*],exclude=*50)", "model", lambda group: ["resnet18", "resnet50", "yolov5"])
    assert found == Choice(key="model", values=["resnet18"])


EXAMPLES = {
    "choice": {"values": ["s", None, 1, True, [1, "it's"], {"a": 0.5}]},
    "uniform": {"min": -1, "max": 1},
    "loguniform": {"min": 1e-5, "max": 1},
    "quniform": {"min": 0.05, "max": 1, "q": 0.1},
    "qloguniform": {"min": 1, "max": 100, "q": 0.5},
    "normal": {"mu": 3, "sigma": 0.2},
    "lognormal": {"mu": -7, "sigma": 1},
    "qnormal": {"mu": 30, "sigma": 9, "q": 4},
    "qlognormal": {"mu": 3, "sigma": 1, "q": 2},
    "randint": {"upper": 7},
    "int": {"low": 1, "high": 64, "log": True},
    "stepped": {"low": 0.5, "high": 2, "step": 0.25},
}


def example(name):
    return read({"type": name, **EXAMPLES[name]})


def test_every_distribution_has_an_example_here():
    assert EXAMPLES.keys() == DISTRIBUTIONS.keys()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_is_read_again_from_its_mapping_and_its_description(name):
    law = example(name)
    assert read(law.as_dict()) == law
    assert name == "int" or read(law.describe()) == law  # int() on a command line is a cast


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_middle_is_drawn_and_what_is_no_value_is_not(name):
    law = example(name)
    assert law.contains(law.middle())
    for never in ("no such value", object(), [math.nan], -1e9, 1e9, math.nan, math.inf):
        assert not law.contains(never)
    assert not law.contains(True) or name == "choice"


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("uniform(0,1)", [0, 1, 0.3], [-0.1, 1.1, "0.5"]),
        ("loguniform(1e-4,1e-2)", [1e-4, 1e-2], [1e-5]),
        ("quniform(0.05,0.45,0.1)", [0.1, 0.2, 0.4], [0.05, 0.15, 0.5, 0]),
        ("qloguniform(8,100,q=16)", [16, 96], [8, 0, 112, 20]),
        ("qnormal(0,1,0.5)", [0, -0.5, 2.5], [0.3, 30]),
        ("qlognormal(0,1,2)", [0, 2, 4.0], [-2, 3]),
        ("normal(0,1)", [0, 0.25, -4.5], [6]),
        ("randint(3)", [0, 2, 1.0], [3, -1, 0.5]),
        ("int(interval(2,8))", [2, 8], [1, 9, 2.5]),
        ("range(1,10,2)", [1, 9], [2, 10, 11]),
        ("range(0,1,0.1)", [0, 0.3, 0.9], [1.0, 0.35]),
        ("choice(1,0.5,a)", [1, 1.0, "a"], [True, "1", 2]),
        ("choice(true,1)", [True, 1], ["true", False]),
        ("choice({a: 1, b: 2},[3])", [{"b": 2, "a": 1}, [3], (3,)], [{"a": 1}, "[3]"]),
    ],
)
def test_what_a_distribution_contains(written, inside, outside):
    law = read(written)
    assert [value for value in inside if not law.contains(value)] == []
    assert [value for value in outside if law.contains(value)] == []
    again = [law.suggest(FixedTrial({"x": law.parameter(value)}), "x") for value in inside]
    assert again == [list(value) if isinstance(value, tuple) else value for value in inside]


@settings(deadline=None, max_examples=300)
@given(
    quantile=st.floats(3e-7, 1 - 3e-7),
    mu=st.floats(-100, 100),
    sigma=st.floats(1e-6, 20),
    q=st.floats(1e-3, 10).map(lambda number: round(number, 3)),
)
def test_latent_draws_are_found_again_to_the_digit(quantile, mu, sigma, q):
    laws = (
        Normal(key="x", mu=mu, sigma=sigma),
        LogNormal(key="x", mu=mu, sigma=sigma),
        QuantizedNormal(key="x", mu=mu, sigma=sigma, q=q),
        QuantizedLogNormal(key="x", mu=mu / 10, sigma=sigma / 10, q=q),
    )
    for law in laws:
        value = law.value(quantile)
        assert law.value(law.parameter(value)) == value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("choice(b,a)", ["b", "a"]),
        ("randint(3)", [0, 1, 2]),
        ("range(1,10,3)", [1, 4, 7]),
        ("tag(log,int(interval(1,4)))", [1, 2, 3, 4]),
        ("quniform(0.1,0.5,0.2)", [0.2, 0.4]),
        ("range(0,1,0.3)", [0.0, 0.3, 0.6, 0.9]),
    ],
)
def test_a_grid_goes_through_all_values(written, expected):
    assert read(written).grid() == expected


@pytest.mark.parametrize("name", ["uniform", "loguniform", "qloguniform", "normal", "lognormal", "qnormal"])
def test_a_continuous_key_in_a_grid_is_refused_with_its_name(name):
    with pytest.raises(ConfigError, match=rf"^training\.learning_rate: {name} has no list of values.*choice"):
        example(name).grid()


def test_a_large_range_in_a_grid_is_refused():
    with pytest.raises(ConfigError, match="has 100000 values, too many for a grid"):
        read("randint(100000)").grid()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("uniform(2,1)", "uniform needs min below max, got min=2.0 and max=1.0"),
        ("uniform(1)", "uniform needs max too. It takes min, max"),
        ("uniform(1,2,3)", "uniform takes min, max, got 3 values"),
        ("uniform(1,2,min=3)", "uniform has min twice"),
        ("uniform(a,b)", "uniform needs a number, got min='a'"),
        ("uniform(true,2)", "uniform needs a number, got min=True"),
        ("uniform(0,inf)", "uniform needs a number, got max=inf"),
        ("loguniform(-6,-1)", "needs min above 0, got min=-6.0. Give values such as 1e-4, not exponents"),
        ("tag(log,interval(0,1))", "loguniform needs min above 0"),
        ("qloguniform(-6,-1,1)", "not exponents"),
        ("qloguniform(1,2,5)", "no multiple of q=5.0 from min=1.0 to max=2.0"),
        ("quniform(1,2,5)", "no multiple of q=5.0 from min=1.0 to max=2.0"),
        ("quniform(1,2,0)", "q above 0"),
        ("quniform(0.3333333333333333,70,0.3333333333333333)", "0.3333333333333333 has too many digits. Round it"),
        ("normal(0,0)", "normal needs sigma above 0"),
        ("qnormal(0,1,-1)", "qnormal needs q above 0, got q=-1.0"),
        ("lognormal(300,1)", "lognormal takes mu and sigma of the logarithm, got mu=300.0"),
        ("randint(0)", "needs upper of at least 1, got upper=0"),
        ("randint(2.5)", "randint needs an integer, got upper=2.5"),
        ({"type": "int", "low": 5, "high": 1}, "int needs low up to high"),
        ({"type": "int", "low": 0, "high": 4, "log": True}, "int with log needs low of at least 1 and step=1"),
        ({"type": "int", "low": 1, "high": 4, "log": "yes"}, "log=true or log=false, got log='yes'"),
        ({"type": "stepped", "low": 1, "high": 4, "step": 0}, "step above 0"),
        ({"type": "unifrom"}, "no distribution 'unifrom'. Did you mean 'uniform'? There are choice, uniform"),
        ({"type": ["uniform"]}, "no distribution ['uniform']"),
        ({"type": "uniform", "lo": 1}, "uniform has no 'lo'. It takes min, max"),
        ({"type": "uniform", "min": 1, "min_value": 1, "max": 2}, "uniform has min twice"),
        ({"type": "choice", "values": "a,b"}, "choice needs a list of values with at least one, got values='a,b'"),
        ({"type": "choice", "values": []}, "at least one"),
        ("choice(1,1.5,1)", "choice holds 1 twice"),
        ("choice(uniform(0,1),2)", "a distribution cannot be within another value"),
        ("[interval(0,1)]", "a distribution cannot be within another value"),
        ("choice()", "needs a list of values with at least one"),
        ("range(1,1)", "range(1,1,1) holds no number"),
        ("range(1,5,0)", "range(1,5,0) holds no number"),
        ("interval(1)", "interval(1): missing a required argument: 'end'. Write a distribution such as"),
        ("foo(1)", "foo(1): Unknown function 'foo'. Write a distribution such as"),
        ("a b(c", "a b(c: mismatched input '(' expecting <EOF>. Write a distribution such as"),
        ("shuffle(1,2)", "Leave it out"),
        ("shuffle(range(1,5))", "Leave it out"),
        ("tag(lgo,interval(1,2))", "no meaning for tag(lgo, …). The one tag is log"),
        ("tag(log,choice(1,2))", "no meaning for tag(log, …). The one tag is log, and it goes with interval()"),
        ("glob(*)", "glob() finds no training.learning_rate such as *"),
        (object, "is no plain value"),
    ],
)
def test_what_is_written_wrong_is_one_clear_line(wrong, message):
    with pytest.raises(ConfigError) as error:
        read(wrong)
    text = str(error.value)
    assert message in text
    assert text.startswith(KEY)
    assert "\n" not in text


# Spaces

CONDITIONAL = {
    "yolo": {"model": "yolov5", "lr": {"type": "loguniform", "min": 1e-4, "max": 1e-2}, "model.size": "small,medium"},
    "frcnn": {"model": "fasterrcnn", "lr": "tag(log,interval(1e-5,1e-3))", "epochs": 15},
}


def test_a_space_is_drawn_with_its_own_keys_and_its_fixed_values():
    spaces = spaces_of(CONDITIONAL)
    trial = FixedTrial({"space": "yolo", "yolo/lr": 1e-3, "yolo/model.size": "medium"})
    assert spaces.suggest(trial) == Drawn(space="yolo", values={"model": "yolov5", "lr": 1e-3, "model.size": "medium"})
    trial = FixedTrial({"space": "frcnn", "frcnn/lr": 1e-4})
    assert spaces.suggest(trial).values == {"model": "fasterrcnn", "lr": 1e-4, "epochs": 15}


def test_one_space_needs_no_name_before_its_keys():
    for spaces in (flat({"lr": "interval(0,1)", "seed": 3}), spaces_of({"only": {"lr": "interval(0,1)", "seed": 3}})):
        assert spaces.suggest(FixedTrial({"lr": 0.5})).values == {"lr": 0.5, "seed": 3}


def test_nested_keys_of_a_group_are_read_as_dotted_ones():
    nested = {"a": {"model": {"name": "resnet18"}, "training": {"momentum": {"type": "uniform", "min": 0, "max": 1}}}}
    dotted_keys = {"a": {"model": "resnet18", "training.momentum": "uniform(0,1)"}}
    assert spaces_of(nested) == spaces_of(OmegaConf.create(dotted_keys))


def test_the_grid_is_the_product_of_each_space_without_repeats():
    spaces = spaces_of(
        {
            "a": {"model": "x", "lr": "0.1,0.2", "size": "choice(s,m)"},
            "b": {"model": "y", "layers": "range(0,3)"},
            "c": {"model": "x", "lr": "0.2,0.3", "size": "s"},  # its first point is one of the space a
            "d": {"model": "z"},
        }
    )
    points = [spaces.suggest(FixedTrial(point)) for point in spaces.grid()]
    assert [point.values for point in points] == [
        {"model": "x", "lr": 0.1, "size": "s"},
        {"model": "x", "lr": 0.1, "size": "m"},
        {"model": "x", "lr": 0.2, "size": "s"},
        {"model": "x", "lr": 0.2, "size": "m"},
        {"model": "y", "layers": 0},
        {"model": "y", "layers": 1},
        {"model": "y", "layers": 2},
        {"model": "x", "lr": 0.3, "size": "s"},
        {"model": "z"},
    ]
    assert [point.space for point in points] == ["a"] * 4 + ["b"] * 3 + ["c", "d"]


def test_a_grid_beyond_all_bounds_is_refused_before_it_is_made():
    with pytest.raises(ConfigError, match=r"The grid has 1000000000000 points"):
        flat({f"k{index}": "randint(1000)" for index in range(4)}).grid()


def test_fixed_parameters_lead_back_to_the_values():
    spaces = spaces_of(CONDITIONAL)
    values = {"model": "yolov5", "lr": 0.005, "model.size": "small"}
    assert spaces.suggest(FixedTrial(spaces.fixed_parameters("yolo", values))).values == values
    assert spaces.fixed_parameters("yolo", {"lr": 0.005}) == {"space": "yolo", "yolo/lr": 0.005}


@pytest.mark.parametrize(
    ("space", "values", "message"),
    [
        ("yolo", {"lr": 1}, r"lr=1 is never drawn by loguniform\(min=0.0001, max=0.01\)"),
        ("yolo", {"momentum": 1}, "momentum=1: the space 'yolo' does not set momentum"),
        ("yolo", {"model": "resnet18"}, "the space 'yolo' keeps model='yolov5'"),
        ("frcnn", {"epochs": True}, "the space 'frcnn' keeps epochs=15"),
        ("resnets", {}, "No space 'resnets'. There are yolo, frcnn"),
    ],
)
def test_values_that_a_space_never_draws_are_refused(space, values, message):
    with pytest.raises(ConfigError, match=message):
        spaces_of(CONDITIONAL).fixed_parameters(space, values)


def test_spaces_contain_whole_sets_of_values_only():
    spaces = spaces_of(CONDITIONAL)
    whole = {"model": "fasterrcnn", "lr": 1e-4, "epochs": 15}
    assert spaces.contains(whole)
    assert not spaces.contains({**whole, "lr": 0.5})
    assert not spaces.contains({**whole, "epochs": 16})
    assert not spaces.contains({**whole, "momentum": 0.9})
    assert not spaces.contains({"lr": 1e-4})


def test_default_values_are_the_defaults_where_allowed_and_else_the_middle():
    spaces = spaces_of(CONDITIONAL)
    assert spaces.default_values("yolo", {"lr": 0.5, "model.size": "medium", "other": 1}) == {
        "model": "yolov5",
        "lr": 0.001,
        "model.size": "medium",
    }
    assert spaces.contains(spaces.default_values("frcnn", {}))


def test_the_fingerprint_changes_with_what_is_drawn_alone():
    before = spaces_of(CONDITIONAL).fingerprint()
    same = {
        "yolo": {"model.size": "choice('small','medium')", "lr": "loguniform(0.0001,0.01)", "model": "'yolov5'"},
        "frcnn": CONDITIONAL["frcnn"],
    }
    assert spaces_of(same).fingerprint() == spaces_of(OmegaConf.create(CONDITIONAL)).fingerprint() == before
    changes = (
        {"yolo": {**CONDITIONAL["yolo"], "lr": "loguniform(0.0001,0.02)"}},
        {"yolo": {**CONDITIONAL["yolo"], "lr": "uniform(0.0001,0.01)"}},
        {"yolo": {**CONDITIONAL["yolo"], "model.size": "small"}},
        {"yolo": {**CONDITIONAL["yolo"], "extra": 1}},
        {"frcnn": {**CONDITIONAL["frcnn"], "epochs": 16}},
        {"third": {"model": "resnet18"}},
    )
    prints = [spaces_of({**CONDITIONAL, **change}).fingerprint() for change in changes]
    assert len({before, *prints}) == len(changes) + 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "search.spaces is empty"),
        ({"a": "model=x"}, "search.spaces.a must be a mapping of keys, got 'model=x'"),
        ({"a/b": {}}, "'a/b' is no name for a space"),
        ({"a": {"lr rate": 1}}, "'lr rate' of the space 'a' is no key"),
        ({"a": {3: 1}}, "3 of the space 'a' is no key"),
        (
            {"a": {"training.momentum": 1, "training": {"momentum": 2}}},
            "training.momentum of the space 'a' is there tw",
        ),
        ({"a": {"lr": "uniform(1,0)"}}, r"^lr: uniform needs min below max.* Space: a\.$"),
    ],
)
def test_a_wrong_space_is_one_clear_line(config, message):
    with pytest.raises(ConfigError, match=message) as error:
        spaces_of(config)
    assert "\n" not in str(error.value)
