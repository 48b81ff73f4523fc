"""Detection and segmentation from Python's words to the run folder, on generated pictures."""

import json

import cv2
import numpy as np
import pytest
from pictures import write_objects

from lightning_automl_vision import load, train
from lightning_automl_vision.api import settings
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.jobs.checking import check
from lightning_automl_vision.result import read_result

DETECTION, SEGMENTATION = "image_object_detection", "image_instance_segmentation"
MODELS = {DETECTION: "fasterrcnn_resnet18_fpn", SEGMENTATION: "maskrcnn_resnet18_fpn"}
SMALL = {
    "pretrained": False,
    "min_size": 64,
    "max_size": 96,
    "box_samples_per_image": 16,
    "proposals_per_image": 30,
    "box_detections_per_image": 10,
}
COCO = {"ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100"}


def run(folder, task, *, settings=None, model=None, training=None, data=None, count=16, **keys):
    source = write_objects(folder / "data", count, polygons=task == SEGMENTATION)
    usual = {"number_of_epochs": 2, "training_batch_size": 4, "random_seed": 1, "number_of_workers": 0}
    return train(
        task={"name": task, **(settings or {})},
        model={"name": MODELS[task], **SMALL, **(model or {})},
        data={"training": str(source), "cache": str(folder / "cache"), **(data or {})},
        training={**usual, "optimizer": "adamw", "learning_rate": 3e-4, **(training or {})},
        trainer={"accelerator": "cpu"},
        output_dir=str(folder / "run"),
        quiet=True,
        **keys,
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", params=[DETECTION, SEGMENTATION])
def finished(request, tmp_path_factory):
    """A run of two epochs with every metric there is."""
    folder = tmp_path_factory.mktemp("run")
    settings = {
        "validation_metric_type": "coco_voc",
        "metric_score_floor": 0.01,
        "log_validation_loss": True,
        "log_training_metrics": True,
    }
    result = run(folder, request.param, settings=settings, data={"test": str(folder / "data" / "train.jsonl")})
    return request.param, folder / "run", result


def test_every_metric_that_was_asked_for_is_there(finished):
    task, folder, result = finished
    assert result.status == "completed"
    assert result.primary_metric.name == "mean_average_precision"
    names = {"mean_average_precision", "precision", "recall", *COCO}
    assert names <= set(result.metrics)
    assert names <= set(result.test_metrics)
    first, last = lines(folder / "metrics.jsonl")
    assert {f"training_{name}" for name in names} <= set(last)
    losses = {name for name in last if name.startswith("loss_")}
    assert {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"} <= losses
    assert ("loss_mask" in losses) == (task == SEGMENTATION)
    assert {f"validation_{name}" for name in losses} <= set(last)
    assert last["validation_loss"] == pytest.approx(sum(last[f"validation_{name}"] for name in losses))
    assert last["loss"] < first["loss"]
    assert all("objects_cut_away" in line for line in (first, last))


def test_the_evaluation_explains_itself(finished):
    task, folder, result = finished
    document = json.loads((folder / "evaluation.json").read_text())
    assert document["overlap"] == ("masks" if task == SEGMENTATION else "boxes")
    assert document["box_score_threshold"] == 0.3
    assert document["average_precision_of_scores_above"] == 0.01
    table = document["per_label_metrics"]
    assert list(table) == document["classes"] == ["blue", "green", "red"]
    averages = [row["average_precision"] for row in table.values() if row["objects"]]
    assert np.mean(averages) == pytest.approx(result.metrics["mean_average_precision"])
    assert document["coco"]["ap_50"] == pytest.approx(result.metrics["ap_50"])
    for name, row in document["coco"]["per_label_metrics"].items():
        assert (row["objects"], row["found"]) == (table[name]["objects"], row["found"])
    matrix = np.array(document["confusion_matrix"])
    assert matrix.shape == (4, 4)
    assert matrix[:3].sum() == document["objects"]
    assert set(document["curves"]) <= set(document["classes"])


def test_what_was_found_in_each_image_is_kept(finished):
    task, folder, result = finished
    rows = lines(folder / "predictions.jsonl")
    assert len(rows) == result.data["validation"]
    matrix = np.array(json.loads((folder / "evaluation.json").read_text())["confusion_matrix"])
    for row in rows:
        assert row["filename"] in {f"{number}.png" for number in range(16)}
        for item in row["boxes"]:
            assert set(item["box"]) == {"topX", "topY", "bottomX", "bottomY"}
            assert 0 <= item["box"]["topX"] < item["box"]["bottomX"] <= 1
            assert item["label"] in ("blue", "green", "red")
            assert 0.01 < item["score"] <= 1
            assert ("mask" in item) == (task == SEGMENTATION)
    missed = sum(row["missed"] for row in rows)
    assert missed + sum(row["true_positives"] for row in rows) == matrix[:3].sum()


def test_the_model_folder_answers_as_the_validation_did(finished):
    _, folder, _ = finished
    rows = lines(folder / "predictions.jsonl")
    predictor = load(folder)
    answers = predictor.predict([folder.parent / "data" / row["filename"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        sure = [item for item in row["boxes"] if item["score"] > 0.3]
        found = answer.as_dict()["boxes"]
        assert len(found) == len(sure)
        for mine, theirs in zip(found, sure, strict=True):
            assert mine["label"] == theirs["label"]
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
            assert mine["box"] == pytest.approx(theirs["box"], abs=1e-5)


def test_pictures_of_each_evaluation_are_kept(finished):
    _, folder, _ = finished
    pictures = sorted((folder / "pictures").glob("*.jpg"))
    assert [picture.stem for picture in pictures] == ["epoch_0001", "epoch_0002"]
    sizes = {cv2.imread(str(picture)).shape for picture in pictures}
    assert len(sizes) == 1


def test_settings_of_a_model_folder_may_be_changed(finished):
    _, folder, _ = finished
    file = folder / "model" / "settings.json"
    settings = json.loads(file.read_text())
    assert settings["box_score_thresh"] == 0.3
    assert (settings["min_size"], settings["max_size"]) == (64, 96)
    picture = folder.parent / "data" / lines(folder / "predictions.jsonl")[0]["filename"]
    try:
        file.write_text(json.dumps({**settings, "box_score_thresh": 0.0, "box_detections_per_img": 3}))
        assert len(load(folder).predict([picture])[0]) == 3
        file.write_text(json.dumps({**settings, "box_score_thresh": 1.5}))
        with pytest.raises(ConfigError, match=r"settings.json: box_score_thresh=1.5 must be in \[0, 1\]"):
            load(folder)
        file.write_text(json.dumps({**settings, "box_score_threshold": 0.5}))
        with pytest.raises(ConfigError, match="are the same setting and differ"):
            load(folder)
    finally:
        file.write_text(json.dumps(settings))


def test_without_metrics_the_validation_loss_decides(tmp_path, caplog):
    result = run(
        tmp_path,
        DETECTION,
        settings={"validation_metric_type": "none"},
        training={"number_of_epochs": 3, "early_stopping_patience": 1, "early_stopping_delay": 0},
    )
    assert result.primary_metric.name == "validation_loss"
    losses = [line["validation_loss"] for line in lines(tmp_path / "run" / "metrics.jsonl")]
    assert result.primary_metric.value == pytest.approx(min(losses))
    assert result.primary_metric.epoch == losses.index(min(losses)) + 1
    assert "mean_average_precision" not in result.metrics
    log = (tmp_path / "run" / "run.log").read_text()
    assert "the lowest validation_loss ends training and picks the epoch" in log
    assert read_result(tmp_path / "run").primary_metric == result.primary_metric


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"weighted_loss": 1}, "training.weighted_loss=1: image_object_detection has no use for it"),
        ({"validation_crop_size": 300}, "training.validation_crop_size=300: image_object_detection has no use"),
    ],
)
def test_what_means_nothing_to_detection_is_refused(training, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, DETECTION, training=training)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"training": {"layers_to_freeze": 6}}, "fasterrcnn_resnet18_fpn has 5 layer groups. Give at most 5"),
        (
            {"augment": {"copy_paste": {"p": 0.5}}},
            r"augment.copy_paste.p=0.5: objects are cut out along their polygons, .* task=image_instance_segmentation",
        ),
        ({"augment": "custom"}, r"augment=custom needs a pipeline in YAML. Name it: augment.file=FILE"),
        ({"augment": {"name": "custom", "file": "gone.yaml"}}, r"augment.file=gone.yaml"),
        ({"settings": {"metric_score_floor": 0.4}}, "metric_score_floor=0.4 is above model.box_score_threshold=0.3"),
        (
            {"data": {"validation": "x.jsonl", "split": "random"}},
            r"data.split=.*random.*data.validation=x.jsonl is given",
        ),
    ],
)
def test_what_cannot_be_obeyed_leaves_no_folder(keys, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, DETECTION, **keys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "model"),
    [
        (DETECTION, {"name": "fasterrcnn_resnet18_fpn", "backbone": "test_resnet"}),
        (DETECTION, {"name": "yolov5", "model_size": "nano", "pretrained": True, "backbone": "test_resnet"}),
        ("image_classification", {"name": "timm", "architecture": "test_resnet"}),
    ],
)
def test_layers_that_only_the_network_counts_are_counted_before_weights_and_data_are_looked_for(task, model, tmp_path):
    def start(layers, **keys):
        train(
            task={"name": task},
            model={**model, **keys},
            data={"training": str(tmp_path / "nowhere")},
            training={"layers_to_freeze": layers},
            output_dir=str(tmp_path / "run"),
        )

    with pytest.raises(
        ConfigError, match=rf"layers_to_freeze=99: {model['name']} has 5 layer groups\. Give at most 5\."
    ):
        start(99)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="nowhere"):
        start(5, pretrained=False)


def test_a_floor_at_the_threshold_is_obeyed():
    task = {"name": DETECTION, "metric_score_floor": 0.3}
    check(settings(task=task, model="fasterrcnn_resnet18_fpn", data={"training": "x"}))


def test_an_augmentation_of_the_other_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="This augmentation is not for image_object_detection"):
        run(tmp_path, DETECTION, augment="classification")
    assert not (tmp_path / "run").exists()


def test_a_key_of_another_task_is_answered_with_where_it_belongs(tmp_path):
    with pytest.raises(ConfigError, match="it belongs to task=image_object_detection, task=image_instance"):
        train(task={"name": "image_classification", "validation_metric_type": "voc"}, data={"training": "x"})
    with pytest.raises(ConfigError, match="it belongs to augment=classification"):
        run(tmp_path, DETECTION, augment={"random_resized_crop": {"enabled": False}})


def test_images_without_objects_alone_are_no_training_set(tmp_path):
    source = write_objects(tmp_path / "data")
    empty = [json.dumps({**json.loads(line), "label": []}) for line in source.read_text().splitlines()]
    (tmp_path / "empty.jsonl").write_text("\n".join(empty).replace('"image_url": "', f'"image_url": "{tmp_path}/data/'))
    with pytest.raises(Exception, match="no label at all"):
        run(tmp_path, DETECTION, data={"training": str(tmp_path / "empty.jsonl")})


def test_the_same_seed_gives_the_same_digits(tmp_path):
    first, second = (
        run(tmp_path / name, DETECTION, training={"number_of_workers": workers}, count=12)
        for name, workers in (("one", 0), ("two", 2))
    )
    assert first.metrics == second.metrics
    measured = [
        [{**line, "seconds": 0} for line in lines(tmp_path / name / "run" / "metrics.jsonl")] for name in ("one", "two")
    ]
    assert measured[0] == measured[1]


def test_a_crowd_is_neither_missed_nor_wrong(tmp_path):
    """With every object of the validation set declared a crowd there is nothing to measure."""
    source = write_objects(tmp_path / "data", 12)
    rows = lines(source)
    for row in rows:
        row["image_url"] = str(tmp_path / "data" / row["image_url"])
        for item in row["label"]:
            item["isCrowd"] = 1
    crowds = tmp_path / "crowds.jsonl"
    crowds.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(tmp_path, DETECTION, data={"validation": str(crowds)}, training={"number_of_epochs": 1}, count=12)
    assert result.metrics["mean_average_precision"] is None
    document = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert not any(row["objects"] for row in document["per_label_metrics"].values())
