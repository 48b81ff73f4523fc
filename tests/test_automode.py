"""AutoMode: what is tried when nobody says what to try."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import lav
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from optuna.trial import FixedTrial
from pictures import write_folders

from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.asking import Asked, asked_for
from lightning_automl_vision.search.automode import Plan, planned
from lightning_automl_vision.search.planning import Budget, Decision, Measured
from lightning_automl_vision.search.portfolio import EPOCHS, Facts

DATA = ["data.training=photos", "limits.max_trials=8"]
CANDIDATES = """
quick:
  epochs: [1, 2, 2]
  first: {training.learning_rate: 0.005}
  space: &small
    model: resnet18
    model.pretrained: false
    training.training_crop_size: 32
    training.validation_crop_size: 32
    training.validation_resize_size: 36
    training.training_batch_size: 8
    training.learning_rate: {type: loguniform, min: 0.0001, max: 0.01}
other:
  epochs: [1, 2, 2]
  space:
    model: mobilenetv2
    model.pretrained: false
    training.training_crop_size: 32
    training.validation_crop_size: 32
    training.validation_resize_size: 36
    training.training_batch_size: 8
    training.learning_rate: {type: loguniform, min: 0.0001, max: 0.01}
for_another_device:
  when: {device: gpu}
  epochs: [1, 2, 2]
  space: *small
impossible:
  epochs: [1, 2, 3]
  space: {model: vits16r224, model.pretrained: false, training.training_crop_size: 99}
hopeless:
  epochs: [100000, 100000, 100000]
  space: *small
"""


def asked(*arguments: str) -> Asked:
    register()
    given = [*DATA, *arguments]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose("config", given)
        return asked_for(OmegaConf.create(config), {}, given)


def names(found: Asked) -> list[str]:
    return [candidate.name for candidate in found.candidates]


def test_a_number_of_trials_alone_is_automode() -> None:
    found = asked()
    assert found.sampler == "automode"
    assert {"resnet18_160", "resnet18_scratch_112", "vit_base"} <= {*names(found)}
    assert asked("+search=automode").candidates == found.candidates


def test_a_space_is_none() -> None:
    assert asked("+search=random", "search.spaces={a: {training.optimizer: 'choice(sgd,adam)'}}").candidates == ()


def test_automode_takes_no_space() -> None:
    with pytest.raises(ConfigError, match="chooses what is tried itself"):
        asked("+search=automode", "search.spaces={a: {training.optimizer: 'choice(sgd,adam)'}}")


def test_what_is_given_stays() -> None:
    found = asked("training.optimizer=sgd", "training.learning_rate=0.3")
    assert found.given == {"training.optimizer": "sgd", "training.learning_rate": 0.3}
    assert not any({*found.given} & {*candidate.first_values} for candidate in found.candidates)


def test_a_model_that_is_given_leaves_its_candidates() -> None:
    assert {candidate.first_values["model"] for candidate in asked("model=resnet18").candidates} == {"resnet18"}


def test_what_an_experiment_says_is_given() -> None:
    found = asked("+experiment=classification_from_scratch")
    assert {candidate.first_values["model"] for candidate in found.candidates} == {"resnet18"}
    assert found.given["training.training_crop_size"] == 112
    assert not any(candidate.space.fixed.get("model.pretrained") for candidate in found.candidates)


def test_without_published_weights_only_what_needs_none_is_left() -> None:
    found = asked("model=resnet18", "model.pretrained=false")
    assert {*names(found)} == {"resnet18_scratch_112", "resnet18_scratch_64"}
    assert found.excluded["resnet18_160"] == "model.pretrained=false is given"


def test_a_model_that_no_candidate_has_is_tried_by_itself() -> None:
    (candidate,) = asked("model=resnet152").candidates
    assert (candidate.name, candidate.space.fixed) == ("resnet152", {"model": "resnet152"})
    assert candidate.epochs.usual == 15
    assert candidate.space.free["training.learning_rate"].contains(0.01)


def test_candidates_by_name() -> None:
    assert names(asked("+search=automode", "search.candidates=[resnet50,resnet18_160]")) == ["resnet50", "resnet18_160"]
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        asked("+search=automode", "search.candidates=[resnet51]")


def test_candidates_that_cannot_be_are_left_out_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "good: {epochs: [1, 2, 3], space: {model: resnet18}}\nunknown: {epochs: [1, 2, 3], space: {model: resnet19}}\n"
    )
    found = asked("+search=automode", f"search.portfolio={file}")
    assert names(found) == ["good"]
    assert found.excluded["unknown"].startswith("no installed plugin has the model resnet19. Did you mean")


def test_a_portfolio_is_for_automode() -> None:
    assert rewrite(["search.candidates=[resnet50]", "limits.max_trials=3"])[1:] == [
        "limits.max_trials=3",
        "+search=automode",
        "--multirun",
    ]


def test_a_size_that_only_the_default_model_cannot_take_leaves_the_candidates() -> None:
    sizes = [f"training.{name}=64" for name in ("training_crop_size", "validation_crop_size", "validation_resize_size")]
    found = asked(*sizes, "+search=automode", "search.candidates=[resnet18_160]")
    assert "takes 224 pixels only" in found.fault
    assert names(found) == ["resnet18_160"]


def a_plan(found: Asked, epochs: dict[str, tuple[int, ...]], in_its_place: str = "") -> Plan:
    seconds = {name: 10.0 * place for place, name in enumerate(epochs, start=1)}
    return Plan(
        facts=Facts(device="cpu", images=100),
        budget=Budget(seconds=3600, trials=8),
        default=Measured(startup=1, epoch=100, memory=1),
        decisions=[
            Decision(name=name, measured=Measured(startup=1, epoch=seconds[name], memory=1), epochs=epochs[name])
            if name in epochs
            else Decision(name=name, dropped="too slow")
            for name in names(found)
        ],
        in_its_place=in_its_place,
    )


def drawn(sweep: Asked, place: int) -> dict[str, Any]:
    return sweep.spaces.suggest(FixedTrial(dict(sweep.points[place]))).values


def test_the_first_trials_are_the_default_and_then_the_best_bets() -> None:
    found = asked()
    sweep = planned(found, a_plan(found, {"resnet18_scratch_64": (20,), "resnet18_160": (10, 20)}))
    first = [drawn(sweep, place) for place in (1, 2)]
    assert sweep.points[0] == {}
    assert [values["model.pretrained"] for values in first] == [True, False]
    assert [values[EPOCHS] for values in first] == [10, 20]
    assert len(sweep.points) == 8
    assert sweep.policy == {"type": "median_stopping", "evaluation_interval": 1, "delay_evaluation": 3}


def test_what_gets_less_than_half_of_its_usual_epochs_comes_later() -> None:
    found = asked()
    sweep = planned(found, a_plan(found, {"resnet18_scratch_64": (20,), "resnet18_160": (4,)}))
    assert [drawn(sweep, place)["model.pretrained"] for place in (1, 2)] == [False, True]


def test_where_the_default_cannot_be_the_cheapest_comes_first() -> None:
    found = asked()
    sweep = planned(found, a_plan(found, {"resnet18_160": (15,), "resnet18_scratch_64": (3,)}, "too slow"))
    assert sweep.draws_default
    assert drawn(sweep, 0)["training.training_crop_size"] == 160  # though the other one has been given less time
    assert drawn(sweep, 1)["training.training_crop_size"] == 64


def test_nothing_to_try_is_told_with_every_reason() -> None:
    found = asked("model=resnet18", "model.pretrained=false")
    plan = a_plan(found, {})
    plan = replace(plan, decisions=[replace(each, dropped="too slow.") for each in plan.decisions])
    with pytest.raises(ConfigError, match=r"resnet18_scratch_112: too slow; resnet18_scratch_64: too slow\.$"):
        planned(found, plan)


def test_a_plan_survives_json() -> None:
    plan = a_plan(asked("model=resnet18"), {"resnet18_160": (3, 6)}, "too slow")
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_a_plan_and_its_sweep(tmp_path: Path) -> None:
    """Two families of models; what cannot fit is left out, and the sweep takes the plan that is there."""
    write_folders(tmp_path / "photos", 8)
    (tmp_path / "mine.yaml").write_text(CANDIDATES)
    words = [
        "data.training=photos",
        "+search=automode",
        "search.portfolio=mine.yaml",
        "limits.max_trials=3",
        "limits.timeout_minutes=20",
        "training.number_of_workers=0",
        "training.random_seed=1",
        "training.layers_to_freeze=0",
        "output_dir=sweep",
    ]
    ended = lav("plan", *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    plan: dict[str, Any] = json.loads((tmp_path / "sweep" / "plan.json").read_text())
    dropped = {each["name"]: each["dropped"] for each in plan["candidates"]}
    assert (dropped["quick"], dropped["other"]) == ("", "")
    assert dropped["hopeless"].startswith("100000 epochs take")
    assert "takes 224 pixels only" in dropped["impossible"]
    assert dropped["for_another_device"] == "it is for a gpu"
    assert "Trial 0 is" in ended.stdout
    assert "The time is too short" not in ended.stdout

    ended = lav(*words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "sweep" / "plan.json").read_text()) == plan
    board = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    trials = {row["number"]: row for row in board["trials"]}
    assert len(trials) == 3
    assert all(row["state"] in ("complete", "pruned") for row in trials.values())
    assert {trials[1]["model"], trials[2]["model"]} | {trials[0]["model"]} >= {"resnet18", "mobilenetv2"}
    assert all(row["planned_seconds"] > 0 for row in trials.values())
