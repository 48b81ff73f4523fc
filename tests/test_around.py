"""A sweep around the best trials of another: narrower, never wider than that one was, with its winner to beat."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as some
from omegaconf import OmegaConf

from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.around import Trial, best_of
from lightning_automl_vision.search.asking import Asked, asked_for
from lightning_automl_vision.search.distributions import Choice, Distribution
from lightning_automl_vision.search.narrowing import narrowed
from lightning_automl_vision.search.overrides import as_overrides
from lightning_automl_vision.search.reading import DISTRIBUTIONS, distribution_of
from lightning_automl_vision.search.samplers import sampler_of
from lightning_automl_vision.search.space_file import SPACE, document, read_space, write_space
from lightning_automl_vision.search.spaces import Spaces, flat, spaces_of

RATE, WARMUP, MODEL = "training.learning_rate", "training.warmup_cosine_lr_warmup_epochs", "model"
LAWS = (
    "choice(1,a,null,0.5)",
    "uniform(-1,3)",
    "loguniform(1e-4,1e-1)",
    "quniform(-3,8,0.5)",
    "qloguniform(1,1000,2)",
    "normal(3,2)",
    "lognormal(-3,1)",
    "qnormal(10,4,3)",
    "qlognormal(1,1,2)",
    "randint(9)",
    "{type: int, low: 2, high: 40}",
    "stepped(0.1,1.5,0.1)",
    "{type: int, low: 1, high: 512, log: true}",
    "{type: int, low: 1, high: 9, step: 2}",
)


def law_of(text: str) -> Distribution:
    law = distribution_of(yaml.safe_load(text) if text.startswith("{") else text, "key")
    assert isinstance(law, Distribution)
    return law


def draws(law: Distribution, count: int, seed: int) -> list[Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler_of("random", seed))
    return [law.suggest(study.ask(), "key") for _ in range(count)]


def test_every_distribution_is_among_the_laws() -> None:
    assert {law_of(text).type for text in LAWS} == {*DISTRIBUTIONS}


@pytest.mark.parametrize("text", LAWS)
@pytest.mark.parametrize("seed", range(6))
def test_a_narrowed_law_draws_the_best_values_and_none_that_the_law_did_not(text: str, seed: int) -> None:
    law = law_of(text)
    best = draws(law, 3, seed)
    found = narrowed(law, best, 0.1)
    assert all(found.contains(value) for value in best)
    bounded = not text.startswith(("normal", "lognormal"))
    assert all(law.contains(value) for value in draws(found, 40, seed + 100)) or not bounded
    assert narrowed(law, best[:1], 0.1).contains(best[0])


@given(some.floats(1e-4, 1e-1), some.floats(1e-4, 1e-1), some.floats(1e-3, 1))
def test_a_logarithmic_range_is_widened_in_orders_of_magnitude(one: float, other: float, widening: float) -> None:
    law = law_of("loguniform(1e-4,1e-1)")
    found: Any = narrowed(law, [one, other], widening)
    wide = 10 ** (3 * widening)
    least, most = min(one, other), max(one, other)
    assert 1e-4 <= found.min <= least <= most <= found.max <= 1e-1
    assert found.min == 1e-4 or math.isclose(found.min, least / wide, rel_tol=1e-3)
    assert found.max == 1e-1 or math.isclose(found.max, most * wide, rel_tol=1e-3)


def test_numbers_reach_beyond_the_best_by_a_share_of_the_range() -> None:
    assert narrowed(law_of("uniform(0,10)"), [4, 5], 0.1).describe() == "uniform(min=3.0, max=6.0)"
    assert narrowed(law_of("uniform(0,10)"), [0.5], 0.1).describe() == "uniform(min=0.0, max=1.5)"
    assert narrowed(law_of("{type: int, low: 1, high: 20}"), [5, 7], 0.1).as_dict() == {
        "type": "int",
        "low": 3,
        "high": 9,
        "step": 1,
        "log": False,
    }


def test_choices_that_never_won_are_left_out_and_one_alone_is_kept() -> None:
    law = law_of("choice(sgd,adam,adamw)")
    assert narrowed(law, ["adamw", "sgd", "sgd"], 0.1).grid() == ["sgd", "adamw"]
    assert narrowed(law_of("{type: int, low: 1, high: 5}"), [3], 0.1) == Choice(key="key", values=[3])


def trial(number: int, *, tied: bool = False) -> Trial:
    return Trial(number=number, value=0.5, tied=tied, drawn=True, space="all", values={})


@pytest.mark.parametrize(
    ("trials", "ties", "kept"),
    [(2, {}, [0, 1]), (5, {}, [0, 1, 2]), (20, {}, [0, 1, 2, 3, 4]), (20, {5, 7, 9, 10, 19}, [0, 1, 2, 3, 4, 5, 7, 9])],
)
def test_the_best_are_a_quarter_and_ties_of_the_better_half(trials: int, ties: set[int], kept: list[int]) -> None:
    asked = [trial(number, tied=number in ties) for number in range(trials)]
    assert [found.number for found in best_of(asked)] == kept


@pytest.mark.parametrize(
    "spaces",
    [
        {
            "a": {"model": "resnet18", RATE: "loguniform(1e-4,1e-1)"},
            "b": {"model": "resnet34", WARMUP: {"type": "int", "low": 0, "high": 5}},
        },
        {"a": {"data.class_name": "'a,b'", "data.images": r"'it\'s'", "training.random_seed": 3, RATE: "0.1,0.2"}},
        {"a": {"data.url_prefixes": ["a=b", "${x}"], "trainer.deterministic": True, "data.cache": None, RATE: "1,2"}},
        {"a": {"data.images": {"type": "choice", "values": ["${x}", "a,b", "1", 1, [1, "x"], {"y": None}]}}},
        {"a": {"data.images": "'choice(1,2)'", "data.encoding": "'1'", "augment": "none", RATE: "normal(0,1)"}},
    ],
)
def test_a_space_is_read_back_from_its_file_as_it_was(tmp_path: Path, spaces: dict[str, Any]) -> None:
    literal = OmegaConf.to_container(OmegaConf.create(spaces), resolve=False)
    assert isinstance(literal, dict)
    known = spaces_of({str(name): keys for name, keys in literal.items()})
    write_space(tmp_path, asked_with(known), aloud=True)
    found, policy = read_space(tmp_path)
    assert found.fingerprint() == known.fingerprint()
    assert policy == {"type": "median_stopping"}


def asked_with(spaces: Spaces) -> Asked:
    return Asked(
        settings=None,  # type: ignore[arg-type]  # of no use to the file
        spaces=spaces,
        sampler="bayesian",
        policy={"type": "median_stopping"},
        seed=1,
        trials=3,
        arguments=("model=resnet18", "data.training='my photos'"),
    )


def test_a_sweep_that_goes_on_leaves_an_edited_file_alone(tmp_path: Path) -> None:
    write_space(tmp_path, asked_with(flat({RATE: "0.1,0.2"})))
    (tmp_path / SPACE).write_text("# mine\n")
    write_space(tmp_path, asked_with(flat({RATE: "0.1,0.2"})))
    assert (tmp_path / SPACE).read_text() == "# mine\n"


SPACES = {
    "small": {MODEL: "resnet18,resnet34", RATE: "loguniform(1e-4,1e-1)", WARMUP: {"type": "int", "low": 0, "high": 10}},
    "large": {MODEL: "resnet50", RATE: "uniform(0.1,0.5)"},
}
FIXED = ("data.training=photos", "model.pretrained=false", "training.random_seed=7")


def sweep(folder: Path, values: list[dict[str, Any]], *, winner: int = 0, fixed: tuple[str, ...] = FIXED) -> Path:
    """A sweep whose trials become worse from one to the next."""
    write_space(folder, asked_with(spaces_of(SPACES)))
    (folder / "overrides.txt").write_text("".join(f"{text}\n" for text in fixed))
    register()
    rows = []
    for number, drawn in enumerate(values):
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            config = compose("config", ["model=resnet18", *FIXED, *as_overrides(drawn)])
        (folder / f"trial_{number:04}").mkdir(parents=True)
        OmegaConf.save(config, folder / f"trial_{number:04}" / "config.yaml", resolve=True)
        row = {"number": number, "state": "complete", "value": 0.9 - number / 100, "overrides": as_overrides(drawn)}
        rows.append(row)
    rows.append({"number": 99, "state": "failed", "value": None, "overrides": []})
    board = {"primary_metric": "accuracy", "winner": winner, "trials": rows[::-1]}
    (folder / "leaderboard.json").write_text(json.dumps(board))
    return folder


def drawn(model: str, rate: float, warmup: int) -> dict[str, Any]:
    return {MODEL: model, RATE: rate, WARMUP: warmup}


USUAL = [drawn("resnet34", 0.01, 4), drawn("resnet34", 0.02, 4), {MODEL: "resnet50", RATE: 0.3}]


def around(folder: Path, *arguments: str) -> Asked:
    register()
    words = ["+search=around", f"runs={folder}", "limits.max_trials=4", f"output_dir={folder}_new", *arguments]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose("config", [word for word in words if "," not in word])
        return asked_for(config, {}, words)


def test_each_space_of_the_best_is_narrowed_and_the_others_are_gone(tmp_path: Path) -> None:
    found = around(sweep(tmp_path / "old", [*USUAL, drawn("resnet18", 0.0001, 0)]))
    assert (found.sampler, found.trials, found.policy) == ("bayesian", 4, {"type": "median_stopping"})
    assert document(found.spaces) == {
        "small": {
            MODEL: "resnet34",
            RATE: {"type": "loguniform", "min": 0.005011, "max": 0.03991},
            WARMUP: {"type": "int", "low": 3, "high": 5, "step": 1, "log": False},
        },
        "large": {MODEL: "resnet50", RATE: {"type": "uniform", "min": 0.26, "max": 0.34}},
    }
    assert found.arguments == FIXED
    assert found.settings.data.training == "photos"


def test_the_winner_is_trial_0_also_where_it_is_not_the_leader(tmp_path: Path) -> None:
    asked = around(sweep(tmp_path / "old", USUAL, winner=2))
    assert asked.points[0] == {"space": "large", f"large/{RATE}": 0.3}
    assert asked.draws_default
    assert asked.stands_in == "it is the winner of the sweep that is searched around"
    assert asked.points[1:] == [{"space": "small", f"small/{RATE}": 0.01, f"small/{WARMUP}": 4}, {}, {}]
    first = around(sweep(tmp_path / "other", USUAL)).points[0]
    assert first == {"space": "small", f"small/{RATE}": 0.01, f"small/{WARMUP}": 4}


def test_a_winner_that_was_the_default_is_the_default_again(tmp_path: Path) -> None:
    fixed = ("model=resnet18", *FIXED)
    asked = around(sweep(tmp_path / "old", [{}, *USUAL], fixed=fixed))
    assert not asked.draws_default
    assert asked.points == [{}] * 4
    assert asked.stands_in == ""
    assert asked.spaces["small"].free[MODEL].grid() == ["resnet18", "resnet34"]  # the default is one of the best


def test_the_best_trial_is_tried_again_where_the_default_won(tmp_path: Path) -> None:
    fixed = ("model=resnet18", *FIXED)
    asked = around(sweep(tmp_path / "old", [*USUAL, {}], fixed=fixed, winner=3))
    assert (asked.draws_default, asked.stands_in) == (False, "")
    leader = {"space": "small", "small/model": "resnet34", f"small/{RATE}": 0.01, f"small/{WARMUP}": 4}
    assert asked.points == [{}, leader, {}, {}]


def test_the_test_set_is_that_of_the_sweep(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "old", USUAL, fixed=(*FIXED, "data.test=null"))
    (folder / "fixed.yaml").write_text("data.test: more photos\n")
    asked = around(folder)
    assert asked.settings.data.test == "more photos"
    assert asked.arguments == (*FIXED, "data.test=null")
    assert around(folder, "data.test=null").settings.data.test is None


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "old", USUAL)
    policy = "search.early_termination={type:bandit,slack_factor:0.1}"
    register()
    words = ["+search=around", f"runs={folder}", "limits.max_trials=4", f"{WARMUP}=2", "data.training=other", policy]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        found = asked_for(compose("config", words), {}, words)
    assert found.arguments == (FIXED[1], f"{WARMUP}=2", "data.training=other", FIXED[2])
    assert WARMUP not in document(found.spaces)["small"]
    assert found.points[0] == {"space": "small", f"small/{RATE}": 0.01}
    assert found.policy == {"type": "bandit", "slack_factor": 0.1}


@pytest.mark.parametrize("outside", [(), ("--config-dir", str(CONFIG_DIR))])
def test_the_file_of_a_new_sweep_is_searched_by_the_command_it_holds(tmp_path: Path, outside: tuple[str, ...]) -> None:
    asked = around(sweep(tmp_path / "old", USUAL))
    write_space(tmp_path / "new", replace(asked, arguments=(*outside, *asked.arguments)))
    text = (tmp_path / "new" / SPACE).read_text()
    words = shlex.split(text.splitlines()[1].lstrip("# "))
    where = [f"hydra.searchpath=['{tmp_path / 'new'}']"] if outside else ["--config-dir", str(tmp_path / "new")]
    expected = ["lav", *outside, *where, "+search=space"]
    assert words[: len(expected)] == expected
    fixed = [word for word in words[1:] if word not in (*outside, *where)]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        folders = f"hydra.searchpath=['{tmp_path / 'new'}']"
        found = asked_for(compose("config", [folders, *fixed]), {}, [folders, *fixed])
    assert found.spaces.fingerprint() == asked.spaces.fingerprint()
    assert (found.sampler, found.policy) == ("bayesian", {"type": "median_stopping"})


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["runs=nowhere"], "runs=nowhere: there is no such folder"),
        (["task=image_object_detection"], "is of the task image_classification"),
        (["model=resnet18"], "model is what the sweep has varied"),
        ([f"{RATE}=0.1,0.2"], "says itself what is tried. Give it one"),
        (["search.spaces={a: {model: resnet18}}"], "search.spaces: .* says itself what is tried"),
        (["search.widening=2"], r"search\.widening=2.0: must be in"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(tmp_path: Path, arguments: list[str], answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        around(sweep(tmp_path / "old", USUAL), *arguments)


def test_what_is_no_sweep_to_search_around_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no leaderboard\.json in it"):
        around(tmp_path)
    with pytest.raises(ConfigError, match="none of its trials is complete"):
        around(sweep(tmp_path / "empty", []))
    folder = sweep(tmp_path / "old", USUAL)
    with pytest.raises(ConfigError, match="is the sweep to search around"):
        around(folder, f"output_dir={folder}")
    (folder / "leaderboard.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not the leaderboard of a sweep"):
        around(folder)
    (folder / SPACE).unlink()
    (folder / "leaderboard.json").write_text('{"primary_metric": "accuracy", "trials": []}')
    with pytest.raises(ConfigError, match=r"space\.yaml: no such file"):
        around(folder)


def test_a_sweep_in_which_all_agree_leaves_nothing_to_try(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "old", [{MODEL: "resnet18"}] * 3)
    write_space_over(folder, flat({MODEL: "resnet18,resnet34"}))
    with pytest.raises(ConfigError, match="its best trials agree in every key"):
        around(folder)


def write_space_over(folder: Path, spaces: Spaces) -> None:
    (folder / SPACE).unlink()
    write_space(folder, asked_with(spaces))


def test_configurations_that_lie_elsewhere_are_asked_for(tmp_path: Path) -> None:
    fixed = ("--config-dir", "/my/conf", *FIXED)
    with pytest.raises(ConfigError, match="was begun with --config-dir /my/conf, where configurations lie"):
        around(sweep(tmp_path / "old", USUAL, fixed=fixed))
