"""Draws follow their laws, and one seed gives one sequence, whatever happens between."""

import math
from statistics import NormalDist

import numpy as np
import optuna
import pytest

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.samplers import sampler_of
from lightning_automl_vision.search.spaces import flat, spaces_of

DRAWS = 3000
LAWS = {
    "uniform": "uniform(-0.2,0.6)",
    "loguniform": "tag(log,interval(1e-4,1e-1))",
    "quniform": "quniform(0.1,1.0,0.3)",
    "quniform_whole": "quniform(1,100,8)",
    "qloguniform": "qloguniform(8,100,q=16)",
    "normal": "normal(10,3)",
    "lognormal": "lognormal(-7,0.5)",
    "qnormal": "qnormal(10,3,2)",
    "qlognormal": "qlognormal(1,1,4)",
    "randint": "randint(5)",
    "int": "int(interval(2,6))",
    "int_step": "range(1,10,2)",
    "int_log": "tag(log,int(interval(1,16)))",
    "stepped": "range(0.5,2,0.5)",
    "choice": {"type": "choice", "values": ["a", None, True, 1, 0.5, [1, 2], {"b": 3}]},
}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def drawn(spaces, sampler, trials, score=lambda values: 0.0):
    study = optuna.create_study(sampler=sampler, direction="maximize")
    answers = []
    for _ in range(trials):
        trial = study.ask()
        answers.append(spaces.suggest(trial))
        study.tell(trial, score(answers[-1]))
    return answers


@pytest.fixture(scope="module")
def draws():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler_of("random", 3))
    spaces = flat(LAWS)
    found = [spaces.suggest(study.ask()).values for _ in range(DRAWS)]
    return {name: [values[name] for values in found] for name in LAWS}


@pytest.mark.parametrize(
    ("name", "share_below"),
    [
        ("uniform", lambda value: (value + 0.2) / 0.8),
        ("loguniform", lambda value: math.log(value / 1e-4) / math.log(1000)),
        ("normal", NormalDist(10, 3).cdf),
        ("lognormal", lambda value: NormalDist(-7, 0.5).cdf(math.log(value))),
    ],
)
def test_continuous_draws_follow_their_law(draws, name, share_below):
    shares = np.array([share_below(value) for value in sorted(draws[name])])
    places = np.arange(DRAWS) / DRAWS
    distance = max(np.abs(shares - places).max(), np.abs(shares - places - 1 / DRAWS).max())
    assert distance < 1.63 / math.sqrt(DRAWS)  # Kolmogorov and Smirnov, one in a hundred
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.std() == pytest.approx(1 / math.sqrt(12), abs=0.01)


def _between(law, values, width):
    """The share of each value, when what is drawn is rounded to the nearest."""
    return {value: law(value + width / 2) - law(value - width / 2) for value in values}


def _log_share(low, high):
    return lambda value: math.log(min(max(value, low), high) / low) / math.log(high / low)


def _log_normal_share(value):
    return NormalDist(1, 1).cdf(math.log(value)) if value > 0 else 0.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quniform", {0.3: 1 / 3, 0.6: 1 / 3, 0.9: 1 / 3}),
        ("quniform_whole", dict.fromkeys(range(8, 97, 8), 1 / 12)),
        ("qloguniform", _between(_log_share(8, 100), [16, 32, 48, 64, 80], 16) | {96: 1 - _log_share(8, 100)(88)}),
        ("qnormal", _between(NormalDist(10, 3).cdf, range(-6, 28, 2), 2)),
        ("qlognormal", _between(_log_normal_share, range(0, 400, 4), 4)),
        ("randint", dict.fromkeys(range(5), 1 / 5)),
        ("int", dict.fromkeys(range(2, 7), 1 / 5)),
        ("int_step", dict.fromkeys(range(1, 10, 2), 1 / 5)),
        ("int_log", _between(_log_share(0.5, 16.5), range(1, 17), 1)),
        ("stepped", {0.5: 1 / 3, 1.0: 1 / 3, 1.5: 1 / 3}),
    ],
)
def test_discrete_draws_have_their_shares(draws, name, expected):
    assert sum(expected.values()) == pytest.approx(1, abs=1e-3)
    assert set(draws[name]) <= set(expected)
    for value, share in expected.items():
        spread = math.sqrt(DRAWS * share * (1 - share))
        assert draws[name].count(value) == pytest.approx(DRAWS * share, abs=4 * spread + 1), value


def test_whole_steps_are_integers_and_others_are_short_decimals(draws):
    whole = ("quniform_whole", "qloguniform", "qnormal", "qlognormal", "randint", "int", "int_step", "int_log")
    assert {type(value) for name in whole for value in draws[name]} == {int}
    assert {repr(value) for value in draws["quniform"]} == {"0.3", "0.6", "0.9"}
    assert {repr(value) for value in draws["stepped"]} == {"0.5", "1.0", "1.5"}


def test_choices_keep_their_types_and_come_alike(draws):
    shown = [repr(value) for value in draws["choice"]]
    expected = {"'a'", "None", "True", "1", "0.5", "[1, 2]", "{'b': 3}"}
    assert set(shown) == expected
    for value in expected:
        assert shown.count(value) == pytest.approx(DRAWS / 7, abs=4 * math.sqrt(DRAWS * 6 / 49))


def test_what_was_drawn_can_be_asked_for_again_to_the_digit(draws):
    spaces = flat(LAWS)
    for place in range(300):
        values = {name: draws[name][place] for name in LAWS}
        again = spaces.suggest(optuna.trial.FixedTrial(spaces.fixed_parameters("", values))).values
        assert [(type(value), value) for value in again.values()] == [(type(value), value) for value in values.values()]


def test_keys_of_one_trial_are_drawn_apart(draws):
    numbers = np.array([draws["uniform"], np.log(draws["loguniform"]), draws["normal"], np.log(draws["lognormal"])])
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 4 / math.sqrt(DRAWS)


CONDITIONAL = {
    "yolo": {"model": "yolov5", "lr": "tag(log,interval(1e-4,1e-2))", "size": "choice(s,m)"},
    "frcnn": {"model": "fasterrcnn", "lr": "tag(log,interval(1e-5,1e-3))", "layers": "int(interval(0,5))"},
}


@pytest.mark.parametrize("name", ["random", "sobol", "bayesian"])
def test_one_seed_gives_one_sequence_and_another_seed_another(name):
    spaces = spaces_of(CONDITIONAL)
    first, same, other = (drawn(spaces, sampler_of(name, seed), 30, _toy) for seed in (7, 7, 8))
    assert first == same
    assert first != other


@pytest.mark.parametrize("name", ["random", "sobol", "bayesian"])
def test_a_trial_draws_the_same_after_the_sampler_was_made_anew(name):
    """A sweep that is resumed goes on with its sequence, and does not begin again with the draws it had."""
    spaces = spaces_of(CONDITIONAL)
    whole = drawn(spaces, sampler_of(name, 7), 16, _toy)
    study = optuna.create_study(direction="maximize")
    resumed = []
    for _ in range(16):
        study.sampler = sampler_of(name, 7)
        trial = study.ask()
        resumed.append(spaces.suggest(trial))
        study.tell(trial, _toy(resumed[-1]))
    assert resumed == whole
    assert len({str(one) for one in whole}) == 16


@pytest.mark.parametrize("name", ["random", "sobol", "bayesian"])
def test_a_trial_has_only_the_keys_of_its_space(name):
    keys = {"yolo": {"model", "lr", "size"}, "frcnn": {"model", "lr", "layers"}}
    answers = drawn(spaces_of(CONDITIONAL), sampler_of(name, 1), 40, _toy)
    assert {answer.space for answer in answers} == {"yolo", "frcnn"}
    for answer in answers:
        assert answer.values.keys() == keys[answer.space]
        assert answer.values["model"] == CONDITIONAL[answer.space]["model"]


def _toy(answer):
    """Best with yolo in its larger size at a learning rate of 0.002."""
    wrong = abs(math.log10(answer.values["lr"] / 2e-3))
    return (1.0 if answer.values.get("size") == "m" else 0.6) - 0.3 * wrong


def test_bayesian_draws_close_in_on_what_works():
    spaces = spaces_of(CONDITIONAL)
    late = {
        name: np.mean([_toy(one) for seed in range(4) for one in drawn(spaces, sampler_of(name, seed), 40, _toy)[20:]])
        for name in ("random", "bayesian")
    }
    assert late["bayesian"] > late["random"] + 0.1


def test_sobol_covers_a_plane_more_evenly_than_chance():
    spaces = flat({"a": "uniform(0,1)", "b": "uniform(0,1)"})

    def fullest(name):
        points = [tuple(one.values.values()) for one in drawn(spaces, sampler_of(name, 5), 65)][1:]
        return max(np.histogram2d(*zip(*points, strict=True), bins=4, range=[[0, 1], [0, 1]])[0].flat)

    assert fullest("sobol") <= 5 < fullest("random")


def test_sobol_says_nothing_about_conditions(caplog):
    optuna.logging.enable_propagation()
    study = optuna.create_study(sampler=sampler_of("sobol", 1))
    spaces = spaces_of(CONDITIONAL)
    for _ in range(6):  # several at once, none of which has ended
        spaces.suggest(study.ask())
    for trial in study.trials:
        study.tell(trial.number, 0.5)
    spaces.suggest(study.ask())
    optuna.logging.disable_propagation()
    assert not caplog.records


def test_a_grid_is_never_drawn_but_held_by_its_tickets():
    spaces = spaces_of({"a": {"x": "1,2"}, "b": {"y": "choice(p,q)"}})
    study = optuna.create_study(sampler=sampler_of("grid", 1))
    for parameters in spaces.grid():
        study.enqueue_trial(parameters)
    answers = [spaces.suggest(study.ask()) for _ in range(4)]
    assert [answer.values for answer in answers] == [{"x": 1}, {"x": 2}, {"y": "p"}, {"y": "q"}]
    with pytest.raises(ConfigError, match="trial 4 holds no value of space"):
        spaces.suggest(study.ask())


def test_any_sampler_of_optuna_goes_by_its_target_and_takes_the_seed():
    node = {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3}
    spaces = flat({"lr": "interval(0,1)"})
    first, same, other = (drawn(spaces, sampler_of(node, seed), 5) for seed in (1, 1, 2))
    assert first == same != other
    kept = [drawn(spaces, sampler_of({**node, "seed": 9}, seed), 5) for seed in (1, 2)]
    assert kept[0] == kept[1]
    assert isinstance(sampler_of({"_target_": "optuna.samplers.QMCSampler"}, 1), optuna.samplers.QMCSampler)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            "bayesain",
            r"^No sampler 'bayesain'\. Did you mean 'bayesian'\? There are random, sobol, bayesian, grid; any",
        ),
        (["bayesian"], r"^No sampler \['bayesian'\]\. Did you mean 'bayesian'\?"),
        ({"_target_": "optuna.samplers.Nothing"}, "_target_=optuna.samplers.Nothing is no sampler of Optuna"),
        ({"_target_": "pathlib.Path"}, "_target_=pathlib.Path is no sampler of Optuna"),
        ({"seed": 3}, "_target_=None is no sampler of Optuna"),
        ({"_target_": "optuna.samplers.TPESampler", "sede": 3}, "TPESampler cannot be made: .*'sede'"),
        ({"_target_": "optuna.samplers.GridSampler", "search_space": {}}, "Write sampler: grid"),
    ],
)
def test_a_wrong_sampler_is_one_clear_line(wrong, message):
    with pytest.raises(ConfigError, match=message) as error:
        sampler_of(wrong, 1)
    assert "\n" not in str(error.value)


def test_a_sampler_whose_package_is_missing_is_refused_before_the_sweep(monkeypatch):
    monkeypatch.setattr("lightning_automl_vision.search.samplers.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match="CmaEsSampler needs the package cmaes"):
        sampler_of({"_target_": "optuna.samplers.CmaEsSampler"}, 1)
    with pytest.raises(ConfigError, match="needs the package scipy"):
        sampler_of("sobol", 1)
