"""``data.test`` in a sweep: trials never hear of it, and it is scored once, for the winner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import lav
from test_evaluate import classifier  # noqa: F401  # the fixture
from test_search_asking import asked

from lightning_automl_vision.api import settings
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.final_test import check_test, score_test, words_of


@pytest.fixture
def sweep(classifier: Path, tmp_path: Path) -> Path:  # noqa: F811
    """The folder of one that has a winner."""
    for name in ("best", "trial_0001"):
        (tmp_path / name).mkdir()
    shutil.copytree(classifier / "run" / "model", tmp_path / "best" / "model")
    shutil.copy(classifier / "run" / "config.yaml", tmp_path / "best")
    return tmp_path


def of_data(**data: Any) -> Any:
    return settings(data={"training": "x", **data}, trainer={"accelerator": "cpu"})


def test_no_trial_is_told_of_the_test_set() -> None:
    found = asked("training.learning_rate=0.1,0.2", "data.test=secret")
    assert found.settings.data.test == "secret"
    assert [text for text in found.arguments if "test" in text] == ["data.test=null"]
    assert not [text for text in asked("training.learning_rate=0.1,0.2").arguments if "data.test" in text]
    with pytest.raises(ConfigError, match=r"data\.test is the sweep's own, and no trial is told"):
        asked("training.learning_rate=0.1,0.2", "data.test=a,b")


def test_the_winner_is_scored_once_and_anew_only_when_it_changes(sweep: Path, classifier: Path) -> None:  # noqa: F811
    with_test = of_data(test=str(classifier / "others"))
    told = score_test(sweep, with_test, "trial_0001")
    was = json.loads((classifier / "run" / "result.json").read_text())
    assert told == {
        "accuracy": was["primary_metric"]["value"],
        "interval": told["interval"],
        "images": 9,
        "trial": "trial_0001",
    }
    written = json.loads((sweep / "best" / "test.json").read_text())
    assert (written["metrics"], written["trial"]) == (was["metrics"], "trial_0001")
    assert "On the 9 images of data.test, which selected nothing, accuracy is" in words_of(told)
    (sweep / "best" / "test.json").unlink()  # best/ is made anew whenever a sweep ends
    shutil.rmtree(sweep / "best" / "model")  # without which nothing can be scored
    assert score_test(sweep, with_test, "trial_0001") == told
    assert (sweep / "best" / "test.json").exists()
    other = score_test(sweep, with_test, "trial_0002")
    assert other is not None
    assert "holds no model" in other["error"]


def test_a_second_test_set_is_remarked_on(sweep: Path, classifier: Path, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    score_test(sweep, of_data(test=str(classifier / "others")), "trial_0001")
    assert "another data.test" not in caplog.text
    shutil.copytree(classifier / "others", sweep / "more")
    told = score_test(sweep, of_data(test=str(sweep / "more")), "trial_0001")
    assert told is not None
    assert told["images"] == 9
    assert "It was scored on another data.test before" in caplog.text


def test_a_sweep_says_what_its_winner_comes_to(classifier: Path, tmp_path: Path) -> None:  # noqa: F811
    words = ["-m", "model=resnet18", "model.pretrained=false", "training.learning_rate=0.01,0.02", "output_dir=out"]
    words += [f"training.{name}_crop_size=32" for name in ("training", "validation")]
    words += ["training.validation_resize_size=32", "training.number_of_epochs=1", "training.training_batch_size=4"]
    words += ["training.number_of_workers=0", "trainer.accelerator=cpu", f"data.training={classifier / 'photos'}"]
    process = lav(*words, f"data.test={classifier / 'others'}", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "On the 9 images of data.test, which selected nothing, accuracy is" in process.stdout
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert board["test"]["trial"] == f"trial_{board['winner']:04}"
    written = json.loads((tmp_path / "out" / "best" / "test.json").read_text())
    assert written["primary_metric"]["value"] == board["test"]["accuracy"]
    for trial in ("trial_0000", "trial_0001"):
        assert json.loads((tmp_path / "out" / trial / "result.json").read_text())["data"]["test"] == 0


def test_a_test_set_that_cannot_be_read_costs_no_sweep(sweep: Path, classifier: Path) -> None:  # noqa: F811
    broken = of_data(test=str(classifier / "others" / "red" / "0.png"))
    told = score_test(sweep, broken, "trial_0001")
    assert told is not None
    assert "0.png" in told["error"]
    assert words_of(told).startswith("data.test could not be scored: ")
    assert not (sweep / "best" / "test.json").exists()
    assert score_test(sweep, of_data(), "trial_0001") is None


def test_a_test_set_that_is_not_there_is_refused_before_the_first_trial() -> None:
    with pytest.raises(ConfigError, match=r"data\.test=nowhere: there is no such file or folder"):
        check_test(of_data(test="nowhere"))
    check_test(of_data())
