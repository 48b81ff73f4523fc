"""A whole run from the outside: what it prints, what it leaves, what it refuses."""

import codecs
import json
import shutil
from functools import partial

import numpy as np
import pytest
import yaml
from commands import lav as lav_command
from pictures import COLOURS, write_folders, write_multilabel, write_objects, write_picture

import lightning_automl_vision as lav
from lightning_automl_vision.config import CONFIG_DIR
from lightning_automl_vision.errors import ConfigError, DataError, WeightsError

TINY = (
    "model=resnet18",
    "model.pretrained=false",
    "training.number_of_epochs=2",
    "training.training_batch_size=4",
    "training.training_crop_size=32",
    "training.validation_crop_size=32",
    "training.validation_resize_size=32",
    "training.number_of_workers=0",
    "training.random_seed=3",
    "trainer.accelerator=cpu",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    process = lav_command(*TINY, f"data.training={photos}", "data.split=stratified", "output_dir=out", cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder / "out", process


def test_the_run_folder_holds_everything_that_is_documented(finished):
    folder, _ = finished
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "result.json",
        "metrics.jsonl",
        "config.yaml",
        "overrides.txt",
        "run.log",
        "evaluation.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "model/weights.safetensors",
        "model/model.json",
        "model/settings.json",
        "model/labels.json",
    } <= names


def test_the_result_says_what_the_run_came_to(finished):
    folder, process = finished
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed"
    assert result["task"] == "image_classification"
    assert result["model"] == "resnet18"
    assert result["primary_metric"]["name"] == "accuracy"
    assert result["primary_metric"]["value"] == result["metrics"]["accuracy"]
    assert result["random_seed"] == 3
    assert result["data"]["training"] + result["data"]["validation"] == 24
    assert f"{result['primary_metric']['value']:.4f}" in process.stdout
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert max(line["accuracy"] for line in lines) == result["primary_metric"]["value"]


def test_the_configuration_of_a_run_is_written_resolved(finished):
    folder, _ = finished
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["training"]["learning_rate"] == 0.01
    assert config["output_dir"] == str(folder)
    overrides = (folder / "overrides.txt").read_text().splitlines()
    assert overrides[0] == "model=resnet18"
    assert not [override for override in overrides if override.startswith("output_dir")]


def test_a_finished_run_is_never_written_over(finished, photos):
    folder, _ = finished
    before = (folder / "result.json").read_bytes()
    process = lav_command(*TINY, f"data.training={photos}", f"output_dir={folder}", cwd=folder.parent)
    assert process.returncode == 2
    assert "already holds a finished run" in process.stderr
    assert (folder / "result.json").read_bytes() == before


def test_the_model_folder_predicts_on_its_own(finished, photos, tmp_path):
    folder, _ = finished
    moved = tmp_path / "elsewhere"
    (folder / "model").rename(moved)
    try:
        predictions = lav.load(moved).predict([photos / "red" / "0.png", np.zeros((50, 60, 3), np.uint8)])
    finally:
        moved.rename(folder / "model")
    assert predictions[0].labels == ("blue", "green", "red")
    assert predictions[0].scores.sum() == pytest.approx(1, abs=1e-5)
    assert len(predictions) == 2


def test_a_model_folder_of_an_unknown_format_is_refused(finished, tmp_path):
    folder, _ = finished
    card = json.loads((folder / "model" / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**card, "format_version": 99}))
    with pytest.raises(ConfigError, match=r"format_version 99 is not known, this version reads 1"):
        lav.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "answer"),
    [
        ("model.json", [], "does not describe a model"),
        ("labels.json", ["a", "a"], "a JSON list of different names is expected"),
        ("labels.json", ["a", " ", "c"], "the name of class 2 is empty"),
        ("labels.json", ["a", "b"], r"labels\.json names 2 classes, and the model has 3\. Name each of them"),
        ("settings.json", [], "a JSON object is expected"),
        ("settings.json", '{"fill": 1, "fill": 2}', r"settings\.json: fill is there twice\. Keep one"),
        ("weights.safetensors", "none", r"weights\.safetensors is damaged: .*\. Copy the whole model folder again\.$"),
    ],
)
def test_a_damaged_model_folder_is_refused_by_name(file, content, answer, finished, tmp_path):
    for path in (finished[0] / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises((ConfigError, WeightsError), match=answer):
        lav.load(tmp_path)


def test_a_byte_order_mark_is_understood(finished, tmp_path):
    shutil.copytree(finished[0] / "model", tmp_path / "model")
    settings = tmp_path / "model" / "settings.json"
    settings.write_bytes(codecs.BOM_UTF8 + settings.read_bytes())
    assert lav.load(tmp_path).card.settings == lav.load(finished[0]).card.settings


def test_a_model_folder_never_asks_for_published_weights(finished, tmp_path):
    for path in (finished[0] / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    card = json.loads((tmp_path / "model.json").read_text())
    card["model"]["parameters"]["pretrained"] = True
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert lav.load(tmp_path).labels == ("blue", "green", "red")


@pytest.mark.parametrize("image", [None, np.zeros((0, 5, 3), np.uint8)])
def test_what_is_no_picture_is_refused(image, finished):
    with pytest.raises(DataError):
        lav.load(finished[0]).predict([image])


def test_same_seed_same_digits(finished, photos, tmp_path):
    folder, _ = finished
    process = lav_command(*TINY, f"data.training={photos}", "data.split=stratified", "output_dir=again", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    first, again = (json.loads((path / "result.json").read_text()) for path in (folder, tmp_path / "again"))
    assert first["metrics"] == again["metrics"]
    weights = [(path / "model" / "weights.safetensors").read_bytes() for path in (folder, tmp_path / "again")]
    assert weights[0] == weights[1]


def test_python_trains_with_the_same_words(tmp_path):
    labels = write_multilabel(tmp_path / "data")
    result = lav.train(
        task="image_classification_multilabel",
        model={"name": "resnet18", "pretrained": False},
        data={"training": labels, "test": labels},
        training={
            "number_of_epochs": 1,
            "training_batch_size": 8,
            "training_crop_size": 32,
            "validation_crop_size": 32,
            "validation_resize_size": 32,
            "number_of_workers": 0,
        },
        trainer={"accelerator": "cpu"},
        output_dir=tmp_path / "run",
        quiet=True,
    )
    assert result.primary_metric.name == "iou"
    assert result.as_dict() == json.loads((tmp_path / "run" / "result.json").read_text())
    assert f"training.random_seed={result.random_seed}" in (tmp_path / "run" / "overrides.txt").read_text()
    assert result.test_metrics["iou"] is not None
    assert lav.load(result.folder).predict([tmp_path / "data" / "0.png"])[0].labels == tuple(sorted(COLOURS))


def test_faulty_data_fail_the_run_with_one_line_and_a_result(tmp_path):
    photos = write_folders(tmp_path / "photos", per_class=5)
    (photos / "red" / "broken.jpg").write_bytes(b"no picture")
    process = lav_command(*TINY, f"data.training={photos}", "output_dir=run", cwd=tmp_path)
    assert process.returncode == 3
    assert "broken.jpg" in process.stderr
    assert "Traceback" not in process.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert "broken.jpg" in result["error"]
    assert not (tmp_path / "run" / "model").exists()


def test_what_is_dropped_is_counted_in_the_result(tmp_path):
    photos = write_folders(tmp_path / "photos", per_class=6)
    (photos / "red" / "broken.jpg").write_bytes(b"no picture")
    arguments = [*TINY, f"data.training={photos}", "data.ignore_data_errors=true", "output_dir=run"]
    process = lav_command(*arguments, "data.split=stratified", "trainer.max_steps=1", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert sum(json.loads((tmp_path / "run" / "result.json").read_text())["data"]["dropped"].values()) == 1


def test_pretrained_weights_that_cannot_be_had_stop_the_run_before_the_data(tmp_path):
    process = lav_command("model=resnet18", "data.training=nowhere", "output_dir=run", cwd=tmp_path)
    assert process.returncode == 5
    for way in ("model.weights=", "model.pretrained=false"):
        assert way in process.stderr


def test_a_small_set_is_refused(tmp_path):
    random = np.random.default_rng(0)
    for number in range(3):
        write_picture(tmp_path / "photos" / "red" / f"{number}.png", COLOURS["red"], random)
        write_picture(tmp_path / "photos" / "blue" / f"{number}.png", COLOURS["blue"], random)
    with pytest.raises(DataError, match=r"data.minimum_images"):
        lav.train(
            model={"name": "resnet18", "pretrained": False},
            data={"training": tmp_path / "photos"},
            output_dir=tmp_path / "run",
        )


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["model=vits16r224", "training.training_crop_size=256"], "vits16r224 takes 224 pixels only"),
        (["model=resnet18", "training.layers_to_freeze=9"], "resnet18 has 5 layer groups"),
        (["model=resnet18", "-m"], "Nothing varies: give a key several values"),
        (["model=resnet18", "limits.max_concurrent_trials=5"], "one training has no use for it"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(arguments, answer, tmp_path):
    process = lav_command(*arguments, "data.training=photos", "output_dir=run", cwd=tmp_path)
    assert process.returncode == 2
    assert answer in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_no_plugin_serves_is_refused(tmp_path):
    arguments = ["task=image_object_detection", "data.training=photos", "output_dir=run"]
    process = lav_command(*arguments, cwd=tmp_path, LAV_BLOCK_PLUGINS="torchvision,yolov5")
    assert process.returncode == 2
    assert "no installed plugin has a model for it" in process.stderr
    assert list(tmp_path.iterdir()) == []


FRUGAL = [
    f"model.{key}" for key in ("min_size=64", "max_size=96", "box_samples_per_image=16", "proposals_per_image=30")
]


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml")))
def test_every_experiment_runs_two_steps(experiment, photos, tmp_path):
    sources = {
        "multilabel": write_multilabel,
        "detection": write_objects,
        "yolov5": write_objects,
        "segmentation": partial(write_objects, polygons=True),
    }
    write = sources.get(experiment.partition("_")[0])
    training = write(tmp_path / "data") if write else photos
    frugal = {"detection": FRUGAL, "segmentation": FRUGAL, "yolov5": ["model.model_size=nano", "model.image_size=64"]}
    process = lav_command(
        f"+experiment={experiment}",
        *frugal.get(experiment.partition("_")[0], ()),
        f"data.training={training}",
        "model.pretrained=false",
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "training.number_of_workers=0",
        "training.training_batch_size=2",
        "output_dir=run",
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"


def test_a_sweep_runs_each_value_in_a_folder_of_its_own(photos, tmp_path):
    arguments = ["-m", *TINY, f"data.training={photos}", "trainer.max_steps=1", "output_dir=sweep"]
    process = lav_command(*arguments, "training.learning_rate=0.01,0.02", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    trials = [tmp_path / "sweep" / name for name in ("trial_0000", "trial_0001")]
    configurations = [yaml.safe_load((trial / "config.yaml").read_text())["training"] for trial in trials]
    assert [configuration["learning_rate"] for configuration in configurations] == [0.01, 0.02]
    assert len({configuration["random_seed"] for configuration in configurations}) == 1
    board = json.loads((tmp_path / "sweep" / "leaderboard.json").read_text())
    assert {row["state"] for row in board["trials"]} == {"complete"}
    assert all(row["interval"][0] <= row["value"] <= row["interval"][1] for row in board["trials"])
    assert (tmp_path / "sweep" / "best" / "model" / "weights.safetensors").exists()
