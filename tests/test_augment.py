"""What happens to a training image, from the configuration to the pixels."""

import pickle
import subprocess
import sys

import albumentations
import numpy as np
import pytest
from test_images import picture

from lightning_automl_vision import api
from lightning_automl_vision.augment import build_offline_transform, build_training_transform
from lightning_automl_vision.data.resizing import resizing_of
from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.samples import Boxes, Labels
from lightning_automl_vision.settings import (
    AugmentConfig,
    ColorJitterConfig,
    CropConfig,
    FlipConfig,
    TrainingConfig,
)

TRAINING = TrainingConfig(training_crop_size=64, validation_crop_size=64, validation_resize_size=72)
PICTURE = picture(160, 120)
OFF = {
    "random_resized_crop": CropConfig(enabled=False),
    "horizontal_flip": FlipConfig(p=0.0),
    "color_jitter": ColorJitterConfig(p=0.0),
}


def built(**keys):
    return build_training_transform(AugmentConfig(**keys), TRAINING)


def custom(tmp_path, text):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    return built(file=str(file))


def shown(transform, *seed, pixels=PICTURE):
    """The picture, whose label goes through."""
    target = Labels(labels=np.array([3]))
    prepared = transform(pixels, target, seed)
    assert (prepared.target, prepared.dropped) == (target, 0)
    return prepared.pixels


def results(transform, count=40):
    return np.stack([shown(transform, 0, 0, number) for number in range(count)])


def test_the_default_gives_other_pictures_for_other_seeds_only():
    transform = built()
    first = results(transform)
    assert first.shape == (40, 64, 64, 3)
    assert first.dtype == np.uint8
    assert len({image.tobytes() for image in first}) == 40
    assert (results(transform) == first).all()
    assert (shown(transform, 0, 0, 7) == first[7]).all()


def test_a_transform_gives_the_same_in_another_process():
    transform = built()
    assert (results(pickle.loads(pickle.dumps(transform))) == results(transform)).all()


def test_the_global_generators_are_left_alone():
    import random

    before = (random.getstate(), np.random.get_state()[1].tolist())
    results(built(), 3)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("task", ["image_classification", "image_classification_multilabel"])
def test_without_augmentation_training_images_are_as_validation_images(task):
    settings = api.settings(task=task, model="resnet18", augment="none")
    transform = build_training_transform(settings.augment, settings.training)
    assert transform.pipeline is None
    expected = resizing_of(settings.augment, settings.training)(PICTURE)
    assert (results(transform, 5) == expected).all()


def test_letterbox_keeps_the_whole_picture():
    augment = api.settings(model="resnet18", augment={"name": "letterbox", "fill": 9}).augment
    augment.color_jitter.p = 0.0
    for image in results(build_training_transform(augment, TRAINING), 8):
        assert (image[:8] == 9).all()
        assert (image[-8:] == 9).all()
        assert not (image[8:-8] == 9).all(axis=2).any(axis=1).all()


@pytest.mark.parametrize("axis", [("horizontal_flip", 1), ("vertical_flip", 0)])
def test_flips_come_as_often_as_asked(axis):
    name, direction = axis
    plain = shown(built(**OFF), 0)
    flipped = results(built(**{**OFF, name: FlipConfig(p=0.25)}), 400)
    same = (flipped == plain).all(axis=(1, 2, 3))
    mirrored = (flipped == np.flip(plain, direction)).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 0.18 < mirrored.mean() < 0.32


def test_crops_have_the_size_that_is_asked_for():
    gradient = np.tile(np.linspace(0, 250, 200).astype(np.uint8)[None, :, None], (200, 1, 3))
    crop = CropConfig(scale=[0.25, 0.25], ratio=[1.0, 1.0])
    transform = built(**{**OFF, "random_resized_crop": crop})
    spans = [int(np.ptp(shown(transform, number, pixels=gradient)[32, :, 0])) for number in range(20)]
    assert all(115 <= span <= 128 for span in spans)


def test_jitter_changes_colours_within_its_limits():
    gray = np.full((80, 80, 3), 100, np.uint8)
    brighter = built(
        **{**OFF, "color_jitter": ColorJitterConfig(p=1.0, brightness=0.2, contrast=0, saturation=0, hue=0)}
    )
    values = {int(shown(brighter, number, pixels=gray)[0, 0, 0]) for number in range(60)}
    assert min(values) >= 79
    assert max(values) <= 121
    assert len(values) > 20
    red = np.zeros((80, 80, 3), np.uint8)
    red[..., 0] = 200
    hue = built(**{**OFF, "color_jitter": ColorJitterConfig(p=1.0, brightness=0, contrast=0, saturation=0, hue=0.1)})
    assert max(int(shown(hue, number, pixels=red)[0, 0, 1:].max()) for number in range(30)) > 30


@pytest.mark.parametrize(("crop", "expected"), [([0.08, 1.0], 128), ([0.64, 1.0], 80), ([1.0, 1.0], 64)])
def test_a_decode_is_reduced_only_as_far_as_crops_allow(crop, expected):
    assert built(random_resized_crop=CropConfig(scale=crop)).short_side == expected


@pytest.mark.parametrize("values", [[1.0, 0.1], [0.5], [0.1, 0.5, 1.0]])
def test_a_range_that_is_none_is_refused(values):
    with pytest.raises(ConfigError, match=r"augment\.random_resized_crop\.scale=\[.*smaller one first"):
        built(random_resized_crop=CropConfig(scale=values))


@pytest.mark.parametrize("task", ["image_classification", "image_classification_multilabel"])
def test_every_task_has_a_default(task):
    assert api.settings(task=task, model="resnet18").augment.color_jitter.p == 0.8


def test_boxes_are_refused_and_not_left_where_they_were():
    boxes = Boxes(labels=np.array([0]), boxes=np.array([[0.1, 0.1, 0.5, 0.5]]), crowd=np.array([False]))
    with pytest.raises(ConfigError, match=r"for classification and moves no boxes\. Choose augment=objects"):
        built()(PICTURE, boxes, (0,))


def test_offline_pictures_are_as_large_as_what_is_cut_out():
    crop = CropConfig(scale=[0.25, 0.25], ratio=[1.0, 1.0])
    cut = build_offline_transform(AugmentConfig(**{**OFF, "random_resized_crop": crop}), TRAINING)
    assert {shown(cut, number).shape for number in range(9)} == {(69, 69, 3)}
    whole = build_offline_transform(AugmentConfig(**{**OFF, "horizontal_flip": FlipConfig(p=1.0)}), TRAINING)
    assert (shown(whole, 0) == PICTURE[:, ::-1]).all()
    assert (cut.short_side, whole.short_side) == (None, None)


# Pipelines of one's own


def test_a_short_list_is_a_pipeline(tmp_path):
    transform = custom(
        tmp_path,
        """
        # comments are fine
        - HorizontalFlip: {p: 1.0}
        - OneOf:
            transforms:
              - VerticalFlip: {p: 1.0}
              - Transpose
            p: 0.0
        - OneOf:
            - NoOp:
            - NoOp
        - RandomCrop:
            height: 64
            width: 64
        """,
    )
    assert results(transform, 2).shape == (2, 64, 64, 3)
    assert transform.short_side is None


def test_what_albumentations_saves_is_a_pipeline(tmp_path):
    saved = albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=1.0),
            albumentations.OneOf([albumentations.VerticalFlip(p=1.0), albumentations.VerticalFlip(p=1.0)], p=1.0),
            albumentations.CenterCrop(height=64, width=64, p=1.0),
        ]
    )
    file = tmp_path / "saved.yaml"
    albumentations.save(saved, file, data_format="yaml")
    transform = built(file=str(file))
    assert (shown(transform, 1) == saved(image=PICTURE)["image"]).all()


def test_a_pipeline_of_ones_own_depends_on_the_seed_alone(tmp_path):
    transform = custom(
        tmp_path, "- SomeOf: {n: 1, transforms: [RandomBrightnessContrast, GaussNoise]}\n- RandomRotate90\n"
    )
    first = results(transform)
    assert len({image.tobytes() for image in first}) > 10
    assert (results(transform)[::-1] == first[::-1]).all()


def test_a_picture_of_another_size_is_brought_to_the_crop_size(tmp_path):
    assert shown(custom(tmp_path, "- Transpose: {p: 1}"), 1).shape == (64, 64, 3)
    file = tmp_path / "pipeline.yaml"
    image = shown(built(file=str(file), resize="letterbox", fill=3), 1)
    assert (image[:, :8] == 3).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- HorizontalFlip\n- HorisontalFlip: {p: 0.5}",
            r":2: albumentations 2\.\d.* no transform 'HorisontalFlip'\. Did",
        ),
        ("- BasicTransform", r":1: albumentations .* has no transform 'BasicTransform'"),
        ("- os.system: {command: ls}", r":1: albumentations .* has no transform 'os.system'"),
        ("- HorizontalFlip: {often: 0.5}", r":1: HorizontalFlip cannot be made: .*'often'"),
        ("- HorizontalFlip: {p: 7}", r":1: HorizontalFlip cannot be made: "),
        ("- RandomCrop: {height: 5}", r":1: RandomCrop cannot be made: .*width"),
        ("- HorizontalFlip: 0.5", r":1: HorizontalFlip has no named parameters"),
        ("- OneOf: {transforms: 3}", r":1: a list of transforms is expected"),
        ("- {HorizontalFlip: , VerticalFlip: }", r":1: this is not one transform"),
        ("- [HorizontalFlip]", r":1: this is not one transform"),
        ("HorizontalFlip: {p: 0.5}", r"\.yaml: it holds no list of transforms"),
        ("", r"\.yaml: it holds no list of transforms"),
        ("- a: [", r":1: not YAML \("),
        ("- !!python/object/apply:os.system [ls]", r":1: "),
        ("- Normalize", r"gives ndarray of float32 .*Leave out"),
        ("- ToTensorV2", r"gives Tensor of torch.uint8 and shape \(3, 1024, 1280\) instead"),
        ("- ToGray: {num_output_channels: 1, p: 1}", r"gives ndarray of uint8 and shape \(1024, 1280"),
        ("- RandomCrop: {height: 5000, width: 5000}", r"fails on a picture of 1280 x 1024 pixels"),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_one_line_before_training(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        custom(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "pipeline.yaml" in str(caught.value)


def test_a_pipeline_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"augment\.file=.*gone\.yaml cannot be read: No such file"):
        built(file=str(tmp_path / "gone.yaml"))
    augment = api.settings(model="resnet18", augment="custom").augment
    with pytest.raises(ConfigError, match=r"augment=custom needs .* augment\.file=FILE"):
        build_training_transform(augment, TRAINING)


def test_albumentations_asks_no_server():
    code = (
        "import socket, urllib.request\n"
        "def refuse(*arguments, **keys): raise SystemExit('network')\n"
        "socket.socket.connect = urllib.request.OpenerDirector.open = refuse\n"
        "import lightning_automl_vision.augment\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
