"""What happens where there is no room: one line, nothing half written, and the best epoch so far is kept."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from closed import as_nobody, open_place
from full_disk import files_of_at_most
from pictures import write_folders
from untrained import save_untrained

from lightning_automl_vision import train
from lightning_automl_vision.answers_file import fingerprint
from lightning_automl_vision.api import settings
from lightning_automl_vision.errors import StorageError, VisionError
from lightning_automl_vision.log import LOG, in_file
from lightning_automl_vision.model_folder import WEIGHTS, load_weights
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.result import read_result
from lightning_automl_vision.run import RunFolder, write
from lightning_automl_vision.storage import append, folder_for_work, replacing, unwritable

MEGABYTE = 1 << 20
FULL = Path("/dev/full")


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    file = tmp_path / "result.json"
    write(file, "before")
    with (
        files_of_at_most(MEGABYTE),
        pytest.raises(StorageError, match=r"result\.json cannot be written: file too large"),
    ):
        write(file, "x" * (2 * MEGABYTE))
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    file = tmp_path / "metrics.jsonl"
    append(file, "first\n")
    with files_of_at_most(MEGABYTE), pytest.raises(StorageError):
        append(file, "x" * (2 * MEGABYTE))
    append(file, "second\n")
    assert file.read_text() == "first\nsecond\n"


def test_the_line_says_how_much_is_free_and_the_way_out(tmp_path):
    message = str(unwritable(tmp_path / "run" / "last.ckpt", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert f"{tmp_path}/run/last.ckpt cannot be written: no space left on device, " in message
    assert "B are free. Make room, or name a folder on another disk: output_dir=PATH." in message


def test_what_torch_and_safetensors_make_of_a_full_disk_is_understood(tmp_path):
    from safetensors.torch import save_file

    from lightning_automl_vision.training.checkpoints import save

    values = {"weights": torch.zeros(MEGABYTE)}
    with files_of_at_most(MEGABYTE), pytest.raises(StorageError, match=r"best\.ckpt cannot be written: file too large"):
        save(values, tmp_path / "best.ckpt")
    file = tmp_path / "weights.safetensors"
    with pytest.raises(StorageError, match="file too large"), files_of_at_most(MEGABYTE), replacing(file) as part:
        save_file(values, part)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_read_by_whoever_may_read_the_rest(tmp_path):
    before = os.umask(0o027)
    try:
        save_untrained(tmp_path, "image_classification")
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "model").iterdir()} == {"0o640"}


@pytest.mark.parametrize("reader", [fingerprint, lambda folder: load_weights(torch.nn.Linear(1, 1), folder / WEIGHTS)])
def test_weights_that_may_not_be_read_are_not_called_missing(reader):
    with open_place() as place:
        weights = place / WEIGHTS
        weights.write_bytes(b"")
        weights.chmod(0)
        with as_nobody(), pytest.raises(VisionError, match=r"cannot be read: permission denied\. Its owner"):
            reader(place)


def test_a_folder_for_work_is_made_before_it_and_taken_away_where_it_stays_empty(tmp_path):
    folder = tmp_path / "above" / "place"
    with folder_for_work(folder):
        assert folder.is_dir()
    assert not folder.parent.exists()
    with folder_for_work(folder):
        (folder.parent / "something").touch()
    assert [path.name for path in folder.parent.iterdir()] == ["something"]


def test_a_folder_that_may_not_be_written_to_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with (
        pytest.raises(StorageError, match=r"cannot be written: permission denied\. Name .*: output=PATH"),
        folder_for_work(tmp_path, "output"),
    ):
        raise AssertionError("the work")


def test_errors_that_have_nothing_to_do_with_files_pass(tmp_path):
    with pytest.raises(RuntimeError, match="another matter"), replacing(tmp_path / "a"):
        raise RuntimeError("another matter")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_log_that_cannot_be_written_makes_no_noise(capfd, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    with in_file(FULL):
        LOG.info("a line")
    assert capfd.readouterr().err == ""


def trained(folder, photos, **settings):
    return train(
        model={"name": "timm", "architecture": "test_vit3", "pretrained": False},
        data={"training": str(photos), "split": "stratified", "cache": str(folder / "cache")},
        training={"number_of_epochs": 2, "random_seed": 1, "number_of_workers": 0, "training_batch_size": 8},
        trainer={"accelerator": "cpu"},
        output_dir=str(folder / "run"),
        quiet=True,
        **settings,
    )


def test_a_run_that_finds_no_room_says_so_and_keeps_its_best_epoch(tmp_path):
    photos = write_folders(tmp_path / "photos", per_class=5)
    network = model_spec("timm").build(
        task="image_classification", num_classes=3, image_size=224, architecture="test_vit3", pretrained=False
    )
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())  # the trainer's state is twice as large
    with (
        files_of_at_most(int(1.5 * weights)),
        pytest.raises(
            StorageError, match=r"last\.ckpt cannot be written.*The best epoch so far, 1, is kept in .*best\.ckpt"
        ),
    ):
        trained(tmp_path, photos)
    run = tmp_path / "run"
    result = read_result(run)
    assert (result.status, result.primary_metric.epoch) == ("failed", 1)
    assert result.primary_metric.value is not None
    assert "cannot be written" in str(result.error)
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["best.ckpt"]
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    assert StorageError.exit_code == 9


def test_the_best_epoch_is_that_of_this_run_and_not_of_one_before_in_its_folder(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{"epoch": 1, "accuracy": None}, {"epoch": 2, "accuracy": 0.5}, {"epoch": 3, "accuracy": 0.5}]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert folder.best("accuracy", lower_is_better=False).epoch == 2
    assert folder.best("accuracy", lower_is_better=True).value == 0.5
    again = RunFolder(tmp_path)
    again.remember()
    assert again.best("accuracy", lower_is_better=False).epoch is None


def test_the_result_of_an_attempt_is_gone_while_the_next_goes_on(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "failed"}')
    RunFolder(tmp_path).create(settings(model="resnet18", data={"training": "x"}))
    assert not (tmp_path / "result.json").exists()
