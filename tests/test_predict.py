"""``lav predict``: which pictures are meant, what is written, and what happens to those that cannot be read."""

import json
import shutil
from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from commands import lav

from lightning_automl_vision.api import settings as composed
from lightning_automl_vision.data.inputs import pictures_of
from lightning_automl_vision.data.reading_ahead import read_ahead
from lightning_automl_vision.data.resizing import CenterCrop, ShortSide
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.jobs import predict as verb
from lightning_automl_vision.masks import draw_polygons
from lightning_automl_vision.model_folder import ModelCard, inference_settings, save_model
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.predictor import Predictor, load
from lightning_automl_vision.samples import ScoredBoxes, ScoredLabels, ScoredMasks
from lightning_automl_vision.settings import DataConfig

DETECTION, SEGMENTATION = "image_object_detection", "image_instance_segmentation"
SQUARE = (20, 30, 60, 80)


def write_picture(path, box=SQUARE, size=(120, 160)):
    """A bright rectangle on black; without a box, all is black."""
    pixels = np.zeros((*size, 3), np.uint8)
    if box is not None:
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
    return path


def brightest(pictures):
    """The box of what is bright in each prepared picture, as a detector answers."""
    for pixels in pictures:
        rows, columns = (np.flatnonzero((pixels[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
        corners = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]] if rows.size else []
        yield {
            "labels": np.ones(len(corners), np.int64),
            "boxes": np.array(corners, np.float64).reshape(-1, 4),
            "scores": np.full(len(corners), 0.75, np.float32),
            "width": pixels.shape[1],
            "height": pixels.shape[0],
        }


def boxes_of(pictures):
    return [ScoredBoxes(**fields) for fields in brightest(pictures)]


def masks_of(pictures):
    return [
        ScoredMasks(**fields, shapes=np.ones((len(fields["boxes"]), 28, 28), np.float32))
        for fields in brightest(pictures)
    ]


def scores_of(pictures):
    """How much of the picture is bright, and how much is dark."""
    bright = [float((pixels > 127).mean()) for pixels in pictures]
    return [ScoredLabels(scores=np.array([1 - share, share], np.float32)) for share in bright]


NETWORKS = {DETECTION: boxes_of, SEGMENTATION: masks_of, "image_classification": scores_of}


def predictor(task, **settings):
    card = ModelCard(
        task=task, name="bright", parameters={}, image_size=120, labels=["dark", "bright"], settings=settings
    )
    return Predictor(card=card, resizing=ShortSide(120, 400), network=NETWORKS[task])


def ask(task, source, output, **keys):
    """Answers by name, and what was counted."""
    config = verb.Config(name="predict", input=str(source), output=str(output), **keys)
    pictures = pictures_of(config.input, DataConfig(), outside=config.output)
    found = verb.Asking(predictor=predictor(task), job=config, pictures=pictures).run()
    return rows(output), found


def rows(output):
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return {line.pop("filename"): line for line in lines}


@pytest.fixture
def folder(tmp_path):
    """Four pictures, two of them in a folder of their own, and what is none."""
    for name in ("b.png", "a.jpg", "more/c.png", "more/deep/d.bmp"):
        write_picture(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_text("no picture")
    return tmp_path / "in"


def names(source, **config):
    return [picture.name for picture in pictures_of(str(source), DataConfig(**config))]


def test_a_folder_means_all_pictures_below_it_in_order(folder):
    assert names(folder) == ["a.jpg", "b.png", "more/c.png", "more/deep/d.bmp"]


def test_a_file_means_itself(folder):
    assert pictures_of(str(folder / "b.png"), DataConfig()) == [("b.png", str(folder / "b.png"), "b", None)]


def test_a_pattern_means_what_it_matches(folder):
    assert names(folder / "*.png") == ["b.png"]
    assert names(folder / "**" / "*.*") == ["a.jpg", "b.png", "more/c.png", "more/deep/d.bmp"]
    assert names(folder / "m*" / "c.*") == ["more/c.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(folder):
    assert names(write_picture(folder / "x[1].png")) == ["x[1].png"]


@pytest.mark.parametrize("name", ["list.jsonl", "list.txt"])
def test_a_list_means_its_images_relative_to_it_and_labels_do_not_matter(folder, name):
    lines = [{"image_url": "more/c.png", "label": 7}, {"image_url": str(folder / "a.jpg")}]
    (folder / name).write_text("\n".join(map(json.dumps, lines)))
    pictures = pictures_of(str(folder / name), DataConfig())
    assert [picture.image for picture in pictures] == [str(folder / "more/c.png"), str(folder / "a.jpg")]
    assert [picture.name for picture in pictures] == ["more/c.png", str(folder / "a.jpg")]


@pytest.mark.parametrize("line", ['{"label": "a"}', '{"image_url": 5}', '{"image_url": "../../x.png"}', '{"image_url"'])
def test_a_faulty_line_is_a_row_by_its_number_or_dropped(folder, tmp_path, line):
    (folder / "list.jsonl").write_text(line + '\n{"image_url": "a.jpg"}\n' + line + "\n")
    answers, _ = ask("image_classification", folder / "list.jsonl", tmp_path / "out")
    assert [*answers] == ["list.jsonl:1", "a.jpg", "list.jsonl:3"]
    assert answers["list.jsonl:3"]["error"].startswith(f"{folder / 'list.jsonl'}:3: ")
    assert "probs" in answers["a.jpg"]
    assert names(folder / "list.jsonl", ignore_data_errors=True) == ["a.jpg"]


@pytest.mark.parametrize("content", ["no JSON\n", '[{"image_url": "a.jpg"}]', '{"image_url": 5}\n{"label": "a"}\n'])
def test_what_is_no_list_at_all_is_refused_before_anything_is_asked(folder, content):
    (folder / "list.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"list\.jsonl:1: "):
        names(folder / "list.jsonl")


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ('{"image_url": 5}\n{"label": "a"}\n', r"no line of it names a picture \(line without a picture 2\)"),
        ("no JSON\n", r"no line of it names a picture \(not JSON 1\)"),
        ("", "it is empty"),
    ],
)
def test_a_list_without_any_picture_says_what_a_line_should_be(folder, content, answer):
    (folder / "list.jsonl").write_text(content)
    with pytest.raises(DataError, match=answer + r"\. Write one a line: {\"image_url\": \"photo\.jpg\"}\."):
        names(folder / "list.jsonl", ignore_data_errors=True)


@pytest.mark.parametrize(
    ("source", "answer"),
    [("gone", "no such file or folder"), ("*.tif", "no picture is there"), ("empty", "no picture is there")],
)
def test_an_input_without_pictures_is_refused(folder, source, answer):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=f"^input=.*{answer}"):
        names(folder / source)


def test_an_output_around_all_pictures_is_told_to_be_the_reason(folder):
    for source in (folder, folder / "more", folder / "*.png"):
        with pytest.raises(ConfigError, match=r"output=.*: all \d pictures of input=.* lie in it"):
            pictures_of(str(source), DataConfig(), outside=str(folder))


def test_what_is_left_out_is_counted(folder, caplog):
    write_picture(folder / "out" / "drawn.png")
    for name in ("a.mp4", "more/b.avi"):
        (folder / name).write_text("a video")
    found = pictures_of(str(folder), DataConfig(), outside=str(folder / "out"))
    assert [picture.name for picture in found] == ["a.jpg", "b.png", "more/c.png", "more/deep/d.bmp"]
    assert caplog.messages[0] == f"Left out: 1 picture below output={folder / 'out'}."
    assert caplog.messages[1].startswith("Left out: 2 videos. To ask about the frames of one, name it: input=")
    with pytest.raises(DataError, match=r"no picture is there, but 1 video\. Name one: input=.*a\.mp4"):
        names(folder / "*.mp4")


def test_a_link_that_leads_nowhere_is_an_answer_in_a_pattern_too(folder):
    (folder / "gone.png").symlink_to(folder / "nothing")
    assert names(folder / "*.png") == ["b.png", "gone.png"]
    assert "gone.png" in names(folder)


def test_what_is_made_of_pictures_has_a_path_of_its_own_within_the_output(folder):
    for name in ("same.png", "same.jpg", "SAME.bmp"):
        write_picture(folder / name)
    images = ["same.png", "same.jpg", "SAME.bmp", "/x/../y.png", "https://host/z.png?token=1", "../../w.png"]
    (folder / "list.jsonl").write_text("\n".join(json.dumps({"image_url": image}) for image in images))
    stems = [picture.stem for picture in pictures_of(str(folder / "list.jsonl"), DataConfig(confine_images=False))]
    assert stems == ["same", "same_2", "SAME_3", "x/y", "host/z", "w"]


def test_boxes_are_written_as_shares_of_each_image(folder, tmp_path):
    write_picture(folder / "e.png", None)
    answers, found = ask(DETECTION, folder, tmp_path / "out")
    assert list(answers) == ["a.jpg", "b.png", "e.png", "more/c.png", "more/deep/d.bmp"]
    assert answers["e.png"] == {"boxes": []}
    (box,) = answers["b.png"]["boxes"]
    assert box == {
        "box": {"topX": 20 / 160, "topY": 30 / 120, "bottomX": 60 / 160, "bottomY": 80 / 120},
        "label": "bright",
        "score": 0.75,
    }
    assert found == {"bright": 4}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.jsonl"]


def test_masks_are_written_as_polygons(folder, tmp_path):
    answers, _ = ask(SEGMENTATION, folder / "b.png", tmp_path / "out")
    (item,) = answers["b.png"]["boxes"]
    parts = [np.array(part).reshape(-1, 2) * (160, 120) for part in item["polygon"]]
    crop = draw_polygons(parts, 160, 120)
    assert (crop.left, crop.top) == SQUARE[:2]
    assert crop.pixels[:50, :40].all()
    assert crop.pixels.sum() == 50 * 40


def test_classes_are_written_with_their_scores(folder, tmp_path):
    answers, found = ask("image_classification", folder, tmp_path / "out", batch_size=3)
    assert answers["b.png"]["labels"] == ["dark", "bright"]
    assert answers["b.png"]["probs"][1] == pytest.approx(40 * 50 / (160 * 120))
    assert found == {"dark": 4}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_an_unreadable_picture_is_a_row_and_stops_nothing(folder, tmp_path, batch_size):
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "more" / "b.png").write_text("no picture")
    write_picture(folder / "z.png", (0, 0, 16, 12))
    answers, _ = ask(DETECTION, folder, tmp_path / "out", batch_size=batch_size, draw=True)
    assert "truncated" in answers["a.jpg"]["error"]
    assert "not an image" in answers["more/b.png"]["error"]
    assert answers["z.png"]["boxes"][0]["box"]["bottomX"] == 0.1
    assert answers["b.png"]["boxes"][0]["box"]["topX"] == 0.125
    assert len(list((tmp_path / "out" / "pictures").rglob("*.*"))) == 4


def test_without_any_readable_picture_nothing_is_written(tmp_path):
    (tmp_path / "a.png").write_text("no")
    (tmp_path / "b.png").write_text("no")
    with pytest.raises(DataError, match=r"None of 2 pictures could be used. The first: .*a\.png"):
        ask(DETECTION, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"^[^ ]*a\.png: is not an image.* Name a picture that can be read.*input=PATH"):
        ask(DETECTION, tmp_path / "a.png", tmp_path / "out")


def test_an_interrupted_run_leaves_no_file(folder, tmp_path, monkeypatch):
    def stop(pictures):
        raise KeyboardInterrupt

    monkeypatch.setitem(NETWORKS, DETECTION, stop)
    with pytest.raises(KeyboardInterrupt):
        ask(DETECTION, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", [DETECTION, SEGMENTATION, "image_classification"])
def test_drawn_pictures_keep_name_format_and_size(folder, tmp_path, task):
    write_picture(folder / "b.jpg", size=(150, 200))
    ask(task, folder, tmp_path / "out", draw=True)
    drawn = sorted(str(path.relative_to(tmp_path / "out" / "pictures")) for path in (tmp_path / "out").rglob("*.*g"))
    assert drawn == ["a.jpg", "b.jpg", "b_2.png", "more/c.png", "more/deep/d.png"]
    before, after = cv2.imread(str(folder / "b.jpg")), cv2.imread(str(tmp_path / "out/pictures/b.jpg"))
    if task == "image_classification":
        assert len(after) > len(before)
    else:
        assert after.shape == before.shape
        assert (after != before).mean() > 0.01


def test_what_was_drawn_into_the_input_is_no_input(folder):
    ask(DETECTION, folder, folder / "out", draw=True)
    (folder / "out" / "predictions.jsonl").unlink()
    answers, _ = ask(DETECTION, folder, folder / "out")
    assert not [name for name in answers if name.startswith("out")]


@pytest.mark.parametrize(("image_type", "exact"), [("PNG", True), ("BMP", True), ("JPG", False)])
def test_mask_pictures_are_white_on_black_by_image_and_class(folder, tmp_path, image_type, exact):
    write_picture(folder / "empty.png", None)
    ask(SEGMENTATION, folder, tmp_path / "out", export_as_image=True, image_type=image_type)
    root = tmp_path / "out" / "masks"
    suffix = image_type.lower()
    written = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    assert written == [f"{stem}/bright/mask_0001.{suffix}" for stem in ("a", "b", "more/c", "more/deep/d")]
    mask = cv2.imread(str(root / "b" / "bright" / f"mask_0001.{suffix}"), cv2.IMREAD_UNCHANGED)
    expected = np.zeros((120, 160), np.uint8)
    expected[30:80, 20:60] = 255
    assert mask.shape == expected.shape
    np.testing.assert_array_equal(mask > 127, expected > 127)
    if exact:
        np.testing.assert_array_equal(mask, expected)


def test_mask_pictures_can_be_read_as_labels(folder, tmp_path):
    from lightning_automl_vision.data.labelled import read_labelled

    ask(SEGMENTATION, folder / "*.*", tmp_path / "out", export_as_image=True, image_type="PNG")
    config = DataConfig(format="masks", images=str(folder), cache=str(tmp_path / "cache"))
    labelled = read_labelled(str(tmp_path / "out" / "masks"), SEGMENTATION, config)
    assert labelled.classes == ("bright",)
    assert [sample.image for sample in labelled.samples] == [str(folder / "a.jpg"), str(folder / "b.png")]
    np.testing.assert_allclose(labelled.samples[1].target.boxes, [[0.125, 0.25, 0.375, 80 / 120]])


@pytest.mark.parametrize("points", [2, 7.0, "many", True])
def test_an_impossible_number_of_polygon_points_is_refused(points):
    with pytest.raises(ConfigError, match=r"max_number_of_polygon_points=.* must be an integer of at least 3"):
        verb.polygon_points(predictor(SEGMENTATION, max_number_of_polygon_points=points).card)


def test_pictures_are_read_ahead_in_order_and_faults_stay_in_their_place():
    def read(number):
        if number % 3 == 0:
            raise DataError(f"no {number}")
        return number * 10

    found = list(read_ahead(read, range(50)))
    assert [str(item) for item in found] == [f"no {n}" if n % 3 == 0 else str(10 * n) for n in range(50)]


def save(folder, name, task, **parameters):
    """An untrained model as a run leaves it."""
    torch.manual_seed(0)
    spec = model_spec(name)
    chosen = {**asdict(spec.config(name=name)), "pretrained": False, **parameters}
    chosen = {key: value for key, value in chosen.items() if key not in ("name", "weights")}
    model = spec.build(task=task, num_classes=2, image_size=64, **chosen)
    resizing = model.resizing or CenterCrop(resize=64, size=64)
    card = ModelCard(
        task=task,
        name=name,
        parameters=chosen,
        image_size=64 if task == "image_classification" else None,
        labels=["dark", "bright"],
        settings={**resizing.as_settings(), **inference_settings(chosen)},
    )
    save_model(folder / "model", card, model)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"), "timm", "image_classification", architecture="test_vit3")


def asked(run, source, output, *, job=None, **keys):
    job = {"name": "predict", "input": str(source), "output": str(output), **(job or {})}
    return composed(checkpoint=str(run), job=job, quiet=True, **keys)


def test_the_verb_needs_no_more_than_a_run_and_pictures(run, folder, tmp_path):
    verb.run(asked(run, folder, tmp_path / "out"))
    assert {name: sum(answer["probs"]) for name, answer in rows(tmp_path / "out").items()} == {
        name: pytest.approx(1) for name in ("a.jpg", "b.png", "more/c.png", "more/deep/d.bmp")
    }


def test_a_segmenting_model_answers_with_polygons_of_few_points(folder, tmp_path):
    parameters = {"min_size": 64, "max_size": 96, "box_score_threshold": 0.0, "box_detections_per_image": 3}
    run = save(tmp_path / "run", "maskrcnn_resnet18_fpn", SEGMENTATION, max_number_of_polygon_points=12, **parameters)
    verb.run(asked(run, folder / "b.png", tmp_path / "out", job={"draw": True}))
    boxes = rows(tmp_path / "out")["b.png"]["boxes"]
    assert len(boxes) == 3
    assert [item["score"] for item in boxes] == sorted((item["score"] for item in boxes), reverse=True)
    for item in boxes:
        assert set(item) == {"box", "label", "score", "polygon"}
        assert all(6 <= len(part) <= 24 and 0 <= min(part) <= max(part) <= 1 for part in item["polygon"])
    assert (tmp_path / "out" / "pictures" / "b.png").is_file()


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ({"task": "image_classification_multilabel"}, "is image_classification. Leave task out"),
        ({"training": {"learning_rate": 0.1}}, "training.learning_rate=0.1: lav predict has no use for it"),
        ({"data": {"training": "x"}}, "data.training='x': lav predict has no use for it"),
        ({"model": "resnet18"}, "model=resnet18: lav predict has no use for it"),
        ({"output_dir": "x"}, "Name it with output="),
        ({"job": {"export_as_image": True}}, "knows no masks"),
        ({"job": {"image_type": "PNG"}}, "Add export_as_image=true"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(run, folder, tmp_path, keys, answer):
    with pytest.raises(ConfigError) as error:
        verb.run(asked(run, folder, tmp_path / "out", **keys))
    assert answer in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_models_own_task_may_be_named(run, folder, tmp_path):
    verb.run(asked(run, folder / "b.png", tmp_path / "out", task="image_classification"))
    assert list(rows(tmp_path / "out")) == ["b.png"]


def changed(run, folder, **settings):
    """The same model with other settings."""
    shutil.copytree(run / "model", folder / "model")
    file = folder / "model" / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"valid_crop_sise": 32}, r"timm has no setting 'valid_crop_sise'. Did you mean 'valid_crop_size'\?"),
        (
            {"box_score_thresh": 0.5},
            "no setting 'box_score_thresh'. There are resize, valid_resize_size, valid_crop_size",
        ),
        (
            {"resize": "letterbox"},
            "valid_resize_size is for resize='crop', and resize='letterbox' does not read it. Leave it out",
        ),
    ],
)
def test_a_setting_that_nobody_would_read_is_refused(run, tmp_path, settings, answer):
    with pytest.raises(ConfigError, match=r"settings\.json: .*" + answer):
        load(changed(run, tmp_path, **settings))


def test_a_resizing_that_the_model_cannot_use_is_refused(run, tmp_path):
    """A classifier takes squares; a detector must see all of a picture."""
    file = changed(run, tmp_path).joinpath("model", "settings.json")
    file.write_text(json.dumps({"resize": "short_side", "min_size": 64, "max_size": 200}))
    with pytest.raises(ConfigError, match=r"settings\.json: resize='short_side' makes pictures of many shapes"):
        load(tmp_path)
    detector = save(tmp_path / "detector", "fasterrcnn_resnet18_fpn", DETECTION, min_size=64, max_size=96)
    file = detector / "model" / "settings.json"
    file.write_text(json.dumps({"resize": "crop", "valid_resize_size": 64, "valid_crop_size": 64}))
    with pytest.raises(ConfigError, match=r"settings\.json: resize='crop' cuts the borders off"):
        load(detector)


def test_settings_are_known_by_both_of_their_names(tmp_path):
    run = save(tmp_path / "run", "fasterrcnn_resnet18_fpn", DETECTION, min_size=64, max_size=96)
    load(changed(run, tmp_path / "other", box_score_threshold=0.3, nms_iou_threshold=0.5))
    with pytest.raises(ConfigError, match="nms_iou_thresh=null must be a number"):
        load(changed(run, tmp_path / "none", nms_iou_thresh=None))
    assert "image_size" not in json.loads((run / "model" / "model.json").read_text())


def test_answers_are_never_overwritten(run, folder, tmp_path):
    verb.run(asked(run, folder / "b.png", tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"already holds predictions.jsonl. Name another folder, or delete that file"):
        verb.run(asked(run, folder, tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"b.png is a file. Name a folder"):
        verb.run(asked(run, folder, folder / "b.png"))


def test_a_folder_without_a_model_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no model"):
        verb.run(asked(folder, folder, tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"checkpoint is not given. Name a run's folder"):
        verb.run(composed(job={"name": "predict", "input": str(folder), "output": str(tmp_path / "out")}))


def test_pictures_of_too_many_pixels_are_refused_one_by_one(run, folder, tmp_path):
    write_picture(folder / "large.png", size=(300, 300))
    verb.run(asked(run, folder, tmp_path / "out", data={"maximum_image_pixels": 50_000}))
    answers = rows(tmp_path / "out")
    assert [name for name, answer in answers.items() if "error" in answer] == ["large.png"]


def test_the_command_says_what_it_did(run, folder, tmp_path):
    (folder / "bad.png").write_text("no")
    command = ["predict", str(run), f"input={folder}", "output=out"]
    process = lav(*command, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("out/predictions.jsonl: 4 images in ")
    assert "most likely: " in process.stdout
    assert "1 of 5 pictures could not be used" in process.stderr
    assert len(rows(tmp_path / "out")) == 5
