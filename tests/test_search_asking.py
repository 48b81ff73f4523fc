"""What a command line asks of a sweep, and what cannot be asked."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.errors import ConfigError, StorageError, VisionError
from lightning_automl_vision.run import SWEEP, RunFolder
from lightning_automl_vision.search.asking import ARGUMENTS, Asked, asked_for, check_folder, remember_arguments
from lightning_automl_vision.search.fixed import FIXED
from lightning_automl_vision.search.same_data import check_same_data
from lightning_automl_vision.search.tickets import locked
from lightning_automl_vision.search.watching import TRIAL_FOLDER

MODEL = ["model=resnet18", "data.training=photos"]
RATES = "training.learning_rate=0.1,0.2"


def asked(*arguments: str, **keys: Any) -> Asked:
    """As Hydra's multirun gives it: a configuration without the sweeps, and the arguments as they were."""
    register()
    fixed = [text for text in arguments if "search" in text or not ("," in text or "glob(" in text)]
    model = [] if any(argument.startswith("model=") for argument in arguments) else MODEL
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose("config", [*model, *fixed])
        return asked_for(OmegaConf.create(config), keys, [*model, *arguments])


def test_values_with_commas_are_a_grid() -> None:
    found = asked(RATES, "training.optimizer=sgd,adamw", "output_dir=x")
    assert (found.is_grid, found.trials, len(found.spaces.grid())) == (True, None, 4)
    seed = found.settings.training.random_seed
    assert found.arguments == (*MODEL, f"training.random_seed={seed}")


def test_a_sweep_that_goes_on_keeps_the_seed_that_was_drawn(tmp_path: Path) -> None:
    first = asked(RATES, f"output_dir={tmp_path}")
    (tmp_path / ARGUMENTS).write_text("".join(f"{text}\n" for text in first.arguments))
    assert asked(RATES, f"output_dir={tmp_path}").arguments == first.arguments
    assert asked(RATES, f"output_dir={tmp_path}", "training.random_seed=5").settings.training.random_seed == 5


def test_arguments_without_a_seed_give_none(tmp_path: Path) -> None:
    """A single run leaves such a file where an experiment gave its seed."""
    (tmp_path / ARGUMENTS).write_text("model=resnet18\n")
    assert asked(RATES, f"output_dir={tmp_path}").settings.training.random_seed is not None


@pytest.mark.parametrize(
    ("node", "sampler", "seed"),
    [
        ({"name": "tpe", "seed": 3}, "bayesian", 3),
        ({"name": "grid", "seed": None}, "grid", 5),
        ("tpe", "bayesian", 5),
        ({"seed": 3}, "bayesian", 3),
        ({"name": "cmaes", "seed": None}, {"_target_": "optuna.samplers.CmaEsSampler"}, 5),
        (
            {"_target_": "optuna.samplers.TPESampler", "seed": 3},
            {"_target_": "optuna.samplers.TPESampler", "seed": 3},
            3,
        ),
    ],
)
def test_hydras_sampler_and_its_seed_are_those_of_the_search(node: Any, sampler: Any, seed: int) -> None:
    found = asked(RATES, "training.random_seed=5", n_trials=2, sampler=node)
    assert (found.sampler, found.seed) == (sampler, seed)


EXPERIMENT = "search.early_termination={type: truncation_selection, truncation_percentage: 20, delay_evaluation: 3}"


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        (["{type: bandit, slack_factor: 0.2}"], {"type": "bandit", "slack_factor": 0.2}),
        ([".type=bandit", ".slack_factor=0.2"], {"type": "bandit", "slack_factor": 0.2, "delay_evaluation": 3}),
        ([".type=median_stopping"], {"type": "median_stopping", "delay_evaluation": 3}),
        (
            [".truncation_percentage=9"],
            {"type": "truncation_selection", "truncation_percentage": 9, "delay_evaluation": 3},
        ),
        ([".type=bandit", ".slack=1"], {"type": "bandit", "slack": 1, "delay_evaluation": 3}),
        (["._target_=optuna.pruners.NopPruner"], {"_target_": "optuna.pruners.NopPruner"}),
    ],
)
def test_the_command_line_replaces_an_experiments_policy(given: list[str], policy: dict[str, Any]) -> None:
    words = [f"search.early_termination{'' if text[0] == '.' else '='}{text}" for text in given]
    arguments = rewrite(["x=1", *words])[1:]
    assert asked(RATES, "+search=random", EXPERIMENT, *arguments, "limits.max_trials=2").policy == policy


def test_a_number_of_trials_draws_them() -> None:
    found = asked(RATES, "limits.max_trials=7", "training.random_seed=3")
    assert (found.sampler, found.trials, found.seed) == ("bayesian", 7, 3)


def test_one_trial_is_a_number_of_trials_where_it_is_given() -> None:
    assert asked(RATES, "+search=random", "limits.max_trials=1").trials == 1


def test_a_pattern_finds_each_model_once() -> None:
    found = asked("data.training=photos", "model=glob(resnet1*)").spaces.spaces[0]
    assert found.free["model"].grid() == ["resnet101", "resnet152", "resnet18"]


def test_the_official_direction_is_taken_where_it_is_the_metrics() -> None:
    assert asked(RATES, direction="maximize").is_grid


def test_the_official_sweepers_words_mean_the_same() -> None:
    params = {"training.learning_rate": "tag(log, interval(1e-4, 1e-1))"}
    found = asked(n_trials=9, n_jobs=3, sampler="bayesian", params=params)
    assert (found.trials, found.settings.limits.max_concurrent_trials, found.sampler) == (9, 3, "bayesian")
    assert found.spaces.spaces[0].free["training.learning_rate"].describe().startswith("loguniform")


def test_the_default_is_one_of_the_space_where_the_tasks_own_cannot_be() -> None:
    """vitb16r224 takes no pictures of 64 pixels."""
    sizes = ["data.training=x", "training.training_crop_size=64", "training.validation_crop_size=64"]
    found = asked(*sizes, "model=resnet18,resnet34", "limits.max_trials=3")
    assert found.first == ({"model": "resnet18"},)
    assert found.stands_in.startswith("the command by itself cannot be: ")
    assert not found.stands_in.endswith(".")
    with pytest.raises(ConfigError, match="vits16r224 takes 224 pixels only"):
        asked(*sizes, "model=vits16r224,vitl16r224", "limits.max_trials=3")


def test_spaces_bring_their_own_models() -> None:
    spaces = "search.spaces={a: {model: resnet18, training.learning_rate: 'uniform(0.1, 0.2)'}, b: {model: resnet34}}"
    found = asked("+search=bayesian", spaces, "search.seed=5", "limits.max_trials=4")
    assert [space.name for space in found.spaces.spaces] == ["a", "b"]
    assert (found.sampler, found.seed) == ("bayesian", 5)
    assert not any(argument.startswith(("search", "+search", "limits")) for argument in found.arguments)


@pytest.mark.parametrize(
    ("spaces", "alike"),
    [
        ("{a: {training.learning_rate: 'choice(0.1,0.2)'}}", [{"training.learning_rate": 0.1}]),
        ("{a: {training.learning_rate: 'choice(0.2,0.3)'}}", []),
        ("{a: {training.learning_rate: 'uniform(0,0.3)'}}", [{"training.learning_rate": 0.1}]),
        ("{a: {training.learning_rate: 0.1}, b: {data.split: stratified}}", [{"training.learning_rate": 0.1}]),
        (
            "{a: {model: 'choice(resnet34,resnet18)', training.learning_rate: 'choice(0.1,0.2)'}}",
            [{"model": "resnet18", "training.learning_rate": 0.1}],
        ),
        ("{a: {model: resnet34, training.learning_rate: 'choice(0.1,0.2)'}}", []),
        ("{a: {augment: 'choice(none,classification)'}}", [{"augment": "classification"}]),
        ("{a: {training.random_seed: 'choice(4,5)'}}", [{"training.random_seed": 5}]),
        ("{a: {training.random_seed: 6, training.learning_rate: 'choice(0.1,0.2)'}}", []),
    ],
)
def test_the_draws_that_train_what_trial_0_does_are_known(
    monkeypatch: pytest.MonkeyPatch, spaces: str, alike: list[dict[str, Any]]
) -> None:
    plain = ["training.learning_rate=0.1", "training.random_seed=5", f"search.spaces={spaces}"]
    times = count()
    clock = SimpleNamespace(now=lambda: SimpleNamespace(strftime=lambda form: f"{next(times)}"))
    monkeypatch.setattr("hydra.core.utils.datetime", clock)  # which is in paths
    found = asked("+search=random", *plain, "limits.max_trials=5")
    assert [*found.like_default] == alike
    assert not asked("+search=grid", *plain).like_default


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("data.training", "choice(there,nowhere)"),
        ("data.validation", "nowhere"),
        ("data.images", "choice(https://host/some,nowhere)"),
        ("augment.file", "choice(null,nowhere)"),
        ("model.weights", "choice(null,nowhere)"),
    ],
)
def test_a_file_that_a_space_names_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, values: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    with pytest.raises(VisionError, match=rf"{key}=nowhere.*[Nn]o such file"):
        asked("+search=random", f"search.spaces={{a: {{{key}: '{values}'}}}}", "limits.max_trials=5")
    space = "search.spaces={a: {data.training: 'choice(there,https://host/some)'}}"
    assert asked("+search=random", space, "limits.max_trials=5").spaces.spaces[0].free


@pytest.mark.parametrize(
    ("arguments", "keys", "answer"),
    [
        (
            [
                *("+search=random", "training.learning_rate=0.1", "limits.max_trials=5"),
                "search.spaces={a: {training.learning_rate: 0.1}, b: {model: resnet18}}",
            ],
            {},
            "Nothing varies: all that can be drawn is what the command does",
        ),
        (["model=null,resnet18"], {}, "No model 'null'. Choose from: "),
        (["model=[resnet18,resnet34],resnet50"], {}, r"is written -m model=resnet18,resnet34, in a space choice\("),
        (["+search=grid", "search.spaces={a: {trainer: true}}"], {}, "No trainer 'true'. Choose from: ddp, default"),
        (["+search=grid", "search.spaces={a: {augment: null}}"], {}, "No augment 'null'. Choose from: "),
        (["+search=grid", "search.spaces={a: {model: [resnet18, resnet34]}}"], {}, "one model is chosen, and this is"),
        ([RATES], {"n_trial": 5}, r"no key 'hydra\.sweeper\.n_trial'. Did you mean 'n_trials'\? The keys of hydra"),
        ([], {}, "Nothing varies: give a key several values"),
        (["+search=random", RATES], {}, r"limits\.max_trials is not given"),
        ([RATES, "limits.max_trials=5"], {"n_trials": 6}, "are the same setting and differ"),
        (["training.learning_ratee=0.1,0.2"], {}, r"no key 'training\.learning_ratee'. Did you mean"),
        (["training.optimizer=sgd,foo"], {}, r"training\.optimizer=foo: must be one of"),
        (["augment=none,nope"], {}, "No augment 'nope'"),
        (["limits.timeout_minutes=1,2"], {}, r"limits\.timeout_minutes is the sweep's own"),
        (
            ["+search=random", RATES, "search.seed=-1", "limits.max_trials=2"],
            {},
            r"search\.seed=-1: must be at least 0",
        ),
        ([RATES], {"max_failure_rate": 7}, r"max_failure_rate=7: must be in \[0, 1\]"),
        (["job=models", RATES], {}, "a sweep trains, and lav models does not"),
        (
            ["+search=random", RATES, "search.storage=journal", "limits.max_trials=2"],
            {"storage": "sqlite:///x"},
            r"search\.storage and hydra\.sweeper\.storage are the same setting and differ",
        ),
        ([RATES], {"lease_seconds": 0}, r"lease_seconds=0: must be more than 0"),
        ([RATES], {"direction": "minimize"}, r"hydra\.sweeper\.direction=minimize: accuracy, .*, is to maximize"),
        ([RATES, "limits.max_trials=1"], {"n_trials": 5}, "are the same setting and differ"),
        ([RATES, "limits.max_concurrent_trials=1"], {"n_trials": 5, "n_jobs": 2}, "are the same setting and differ"),
        ([RATES], {"n_trials": -3}, r"hydra\.sweeper\.n_trials=-3: must be in \[1, 1000\]"),
        ([RATES], {"n_trials": 5, "n_jobs": 500}, r"hydra\.sweeper\.n_jobs=500: must be in \[1, 100\]"),
        ([RATES, "+search=grid"], {"sampler": "random"}, r"search\.sampler=grid and hydra\.sweeper\.sampler=random"),
        ([RATES], {"n_trials": 5, "sampler": ["a"]}, r"hydra\.sweeper\.sampler=\['a'\]: must be a name"),
        ([RATES], {"n_trials": 5, "sampler": {"name": ["a"]}}, r"sampler\.name=\['a'\]: must be a name"),
        ([], {"params": "abc"}, r"hydra\.sweeper\.params=abc: must be a mapping"),
        ([], {"params": ["a"]}, r"hydra\.sweeper\.params=\['a'\]: must be a mapping"),
        (
            ["+search=random", "search.spaces=[1,2]", "limits.max_trials=2"],
            {},
            r"search\.spaces=\[1, 2\]: must be a mapping",
        ),
        (["model=glob(nosuch*)"], {}, r"glob\(\) finds no model such as nosuch\*"),
        (["+search=grid", "search.spaces={a: {model: resnet18}}", RATES], {}, "both say what is tried"),
        (["+search=random", "search.spaces={a: {}}", "limits.max_trials=3"], {}, r"Nothing varies: search\.spaces has"),
        (
            ["model=vits16r224", "data.training=x", "training.training_crop_size=256", RATES],
            {},
            "takes 224 pixels only",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused(arguments: list[str], keys: dict[str, Any], answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        asked(*arguments, **keys)


def test_a_run_and_a_sweep_have_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="holds a run, not a sweep"):
        check_folder(asked(RATES, f"output_dir={tmp_path}"))
    (tmp_path / "config.yaml").unlink()
    (tmp_path / SWEEP).touch()
    check_folder(asked(RATES, f"output_dir={tmp_path}"))
    with pytest.raises(ConfigError, match="holds a sweep, not a run"):
        RunFolder(tmp_path).check()
    with pytest.raises(ConfigError, match=r"resume=never: output_dir=.* holds a sweep"):
        check_folder(asked(RATES, f"output_dir={tmp_path}", "resume=never"))


def test_a_sweep_goes_on_by_the_command_that_began_it_alone(tmp_path: Path) -> None:
    where = f"output_dir={tmp_path}"
    (tmp_path / SWEEP).touch()
    remember_arguments(asked(RATES, where, "training.number_of_epochs=3", "data.training=photos"))
    same = (RATES, where, "data.training=photos")
    check_folder(asked(*same, "training.number_of_epochs=3", "limits.timeout_minutes=7", "limits.max_trials=2"))
    check_folder(asked(*same, "training.number_of_epochs=3", "data.test=others", "training.number_of_workers=0"))
    with pytest.raises(ConfigError, match=r"begun with training\.number_of_epochs=3, and cannot go on with .*=2"):
        check_folder(asked(*same, "training.number_of_epochs=2"))
    with pytest.raises(ConfigError, match=r"begun with data\.training=photos, and cannot go on with .*=others"):
        check_folder(asked(RATES, where, "data.training=others", "training.number_of_epochs=3"))


def test_trials_that_are_to_have_the_same_data_must_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = asked(RATES).settings, asked(RATES, "data.split=stratified").settings
    first, second = (replace(each, training=replace(each.training, random_seed=1)) for each in (first, second))
    trial = tmp_path / "trial_0001"
    monkeypatch.setenv(TRIAL_FOLDER, str(trial))
    check_same_data(first, trial, "some")
    assert not [*tmp_path.iterdir()]  # no sweep's folder
    (tmp_path / FIXED).touch()
    for settings, found in ((first, "some"), (second, "others"), (first, "some")):
        check_same_data(settings, trial, found)
    check_same_data(replace(first, limits=replace(first.limits, timeout_minutes=3.0)), trial, "some")
    with pytest.raises(ConfigError, match=r"sweep that cannot go on: the images or labels .* have changed since"):
        check_same_data(first, trial, "others")


@pytest.mark.parametrize("values", ["interval(0.1, 1.89)", "range(0.5, 1.6, 0.5)"])
def test_both_ends_of_a_range_are_tried_before_a_trial_is(values: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.learning_rate=1\.(89|5): must be in \[0, 1\]"):
        asked(f"training.learning_rate={values}", "limits.max_trials=5")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder(file).check()
    with pytest.raises(StorageError, match="cannot be written: file exists"), locked(file):
        pass
