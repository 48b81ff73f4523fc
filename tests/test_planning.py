"""Which candidates fit into the time and the memory of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import lav
from pictures import write_folders

from lightning_automl_vision.search.planning import Budget, Decision, Measured, chosen, fits_default
from lightning_automl_vision.search.portfolio import EPOCHS, Candidate, Epochs
from lightning_automl_vision.search.spaces import Space
from lightning_automl_vision.training.gathering import agreed, as_one_of, is_first, share

GIGABYTE = 1 << 30
HOUR = 3600.0


def candidate(name: str, least: int = 3, usual: int = 10, most: int = 20) -> Candidate:
    space = Space(name=name, fixed={"model": name}, free={})
    return Candidate(space=space, epochs=Epochs(least=least, usual=usual, most=most))


def measured(epoch: float, startup: float = 0.0, memory: int = GIGABYTE) -> Measured:
    return Measured(startup=startup, epoch=epoch, memory=memory)


def decided(epoch: float, budget: Budget, **given: int) -> Decision:
    return chosen([candidate("a")], {"a": measured(epoch)}, budget, given)[0]


def test_a_trials_share_is_the_time_of_all_slots_divided_by_the_trials() -> None:
    assert Budget(seconds=HOUR, trials=12, slots=2).share == 600


@pytest.mark.parametrize(
    ("epoch", "epochs"),
    [(10.0, (10, 20)), (29.0, (10, 20)), (31.0, (10,)), (60.0, (10,)), (100.0, (6,)), (200.0, (3,))],
)
def test_as_many_epochs_as_fit(epoch: float, epochs: tuple[int, ...]) -> None:
    assert decided(epoch, Budget(seconds=HOUR, trials=6)).epochs == epochs


def test_fewer_than_the_least_are_left_out() -> None:
    slow = chosen(
        [candidate("slow"), candidate("fast")],
        {"slow": measured(250, startup=10), "fast": measured(1)},
        Budget(seconds=HOUR, trials=6),
        {},
    )[0]
    assert (slow.kept, slow.dropped) == (False, "3 epochs take 12.7 minutes, and its share is 10.0 minutes")


def test_startup_counts() -> None:
    budget = Budget(seconds=HOUR, trials=6)
    assert chosen([candidate("a")], {"a": measured(50, startup=300)}, budget, {})[0].epochs == (6,)


def test_memory_is_shared_by_the_slots() -> None:
    budget = Budget(seconds=HOUR, trials=6, slots=2, memory=4 * GIGABYTE)
    decisions = chosen(
        [candidate("large"), candidate("small")],
        {"large": measured(1, memory=3 * GIGABYTE), "small": measured(1, memory=2 * GIGABYTE)},
        budget,
        {},
    )
    assert [each.kept for each in decisions] == [False, True]
    assert decisions[0].dropped == "it needs 3.0 GB, and each of 2 at a time has 2.0"


def test_what_could_not_be_measured_says_why() -> None:
    decisions = chosen([candidate("a")], {"a": "out of memory"}, Budget(seconds=HOUR, trials=6), {})
    assert [each.dropped for each in decisions] == ["out of memory"]


def test_where_nothing_fits_the_quickest_is_kept() -> None:
    decisions = chosen(
        [candidate("a"), candidate("b", least=2), candidate("c")],
        {"a": measured(500), "b": measured(600), "c": measured(800)},
        Budget(seconds=HOUR, trials=60),
        {},
    )
    assert [(each.kept, each.epochs) for each in decisions] == [(False, ()), (True, (2,)), (False, ())]


def test_epochs_that_the_user_gave_are_kept_or_do_not_fit() -> None:
    budget = Budget(seconds=HOUR, trials=6)
    assert decided(10, budget, **{EPOCHS: 40}).epochs == (40,)
    assert decided(700, budget, **{EPOCHS: 40}).epochs == (40,)  # alone, and so the quickest
    decisions = chosen([candidate("a"), candidate("b")], {"a": measured(100), "b": measured(10)}, budget, {EPOCHS: 40})
    assert [each.kept for each in decisions] == [False, True]


def test_the_default_has_to_fit_its_share() -> None:
    budget = Budget(seconds=HOUR, trials=6, memory=2 * GIGABYTE)
    assert fits_default(measured(60), 10, budget) is None
    assert fits_default(measured(61), 10, budget) == "10 epochs take 10.2 minutes, and its share is 10.0 minutes"
    assert fits_default(measured(1, memory=3 * GIGABYTE), 10, budget) == "it needs 3.0 GB"
    assert fits_default("no weights", 10, budget) == "no weights"


def test_a_decision_survives_json() -> None:
    decision = Decision(name="a", measured=measured(2.5), epochs=(3, 6))
    assert Decision.from_dict(decision.as_dict()) == decision


def test_one_of_two_processes_is_measured_with_its_part_of_the_images() -> None:
    with as_one_of(2, 2):
        assert share() == (0, 2, 2)
        assert share().length(9) == 5
        assert is_first()
        assert agreed(False) == (False,)
    assert share().is_all


@pytest.mark.slow
def test_the_plan_of_two_devices_says_that_one_process_was_measured(tmp_path: Path) -> None:
    data = write_folders(tmp_path / "set", per_class=20)
    words = ["task=image_classification", f"data.training={data}", "model=timm", "model.architecture=resnet18"]
    words += ["model.pretrained=false", "training.training_crop_size=32", "training.validation_crop_size=32"]
    words += ["training.validation_resize_size=32", "training.training_batch_size=4", "trainer.accelerator=cpu"]
    words += ["trainer.devices=2", "training.number_of_workers=0", f"output_dir={tmp_path / 'plan'}"]
    said = lav("plan", *words, cwd=tmp_path).stdout
    assert "One of 2 processes was measured, with its share of the images" in said
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["measured"]["processes"] == 2
