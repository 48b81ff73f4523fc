"""yolov5 as a model: pictures and boxes around its network, weights, timm's networks, anchors."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from test_torchvision_plugin import cache, put_in_hub, trained_looking  # noqa: F401

from lav_yolov5.model import build, truth_of
from lav_yolov5.network import STRIDES
from lav_yolov5.pictures import framed, rescaled
from lav_yolov5.preparing import object_sizes
from lav_yolov5.rectangles import rectangle_around
from lav_yolov5.sizes import SIZES
from lav_yolov5.weights import find_weights
from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import LabelledImages
from lightning_automl_vision.errors import ConfigError, DataError, WeightsError
from lightning_automl_vision.models import Batch, BoxTargets
from lightning_automl_vision.samples import Boxes, Sample
from lightning_automl_vision.training.start_weights import load_start_weights

GRAY = 114


def model_of(*, classes=3, image_size=640, seed=0, **options):
    torch.manual_seed(seed)
    return build(
        task="image_object_detection", num_classes=classes, image_size=image_size, **{"model_size": "nano", **options}
    )


def eager_to_answer(model, level=0.0):
    """An untrained head is so modest that hardly anything would be found."""
    with torch.no_grad():
        for convolution in model.network.head.m:
            convolution.bias.view(3, -1)[:, 4] = level
    return model.eval()


def batch_of(sizes, *, boxes=(), seed=0):
    """Noise of these widths and heights, padded with zeros to one rectangle, and boxes of (picture, class, corners)."""
    generator = torch.Generator().manual_seed(seed)
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for image, (across, down) in zip(images, sizes, strict=True):
        image[:, :down, :across] = torch.randint(0, 256, (3, down, across), generator=generator, dtype=torch.uint8)
    boxes = sorted(boxes, key=lambda box: box[0])
    targets = BoxTargets(
        labels=torch.tensor([box[1] for box in boxes], dtype=torch.int64),
        boxes=torch.tensor([box[2:6] for box in boxes], dtype=torch.float32).view(-1, 4),
        crowd=torch.tensor([len(box) > 6 for box in boxes], dtype=torch.bool),
        counts=tuple(sum(box[0] == number for box in boxes) for number in range(len(sizes))),
    )
    return Batch(images=images, targets=targets, keys=[str(number) for number in range(len(sizes))], sizes=sizes)


def answers(model, batch):
    with torch.inference_mode():
        return model.predict(batch)


def test_a_picture_is_answered_alike_in_any_company():
    model = eager_to_answer(model_of()).double()
    sizes = [(96, 64), (70, 41), (96, 64), (33, 100), (70, 41)]
    together = answers(model, batch_of(sizes))
    for number, (found, size) in enumerate(zip(together, sizes, strict=True)):
        whole = batch_of(sizes)
        alone = replace(
            whole, images=whole.images[number : number + 1, :, : size[1], : size[0]], keys=["one"], sizes=[size]
        )
        (other,) = answers(model, alone)
        assert (found.width, found.height) == size
        assert len(found) == len(other) > 0
        np.testing.assert_array_equal(found.labels, other.labels)
        np.testing.assert_allclose(found.boxes, other.boxes, rtol=0, atol=1e-9)


def test_boxes_are_cut_at_the_picture_and_those_in_its_frame_are_left_out():
    model = eager_to_answer(model_of(nms_iou_threshold=1.0, box_detections_per_image=100_000, box_score_threshold=0.0))
    width, height = 65, 33  # in 96 x 64, with 15 and 16 pixels of gray around
    (found,) = answers(model, batch_of([(width, height)]))
    with torch.inference_mode():
        maps = model.network(framed(batch_of([(width, height)]).images, [(width, height)], (64, 96)) / 255)
        x, y, across, down = model.network.head.decode(maps)[0, :, :4].unbind(dim=1)
    meets = (x + across / 2 > 15) & (x - across / 2 < 80) & (y + down / 2 > 15) & (y - down / 2 < 48)
    assert 0 < meets.sum() < len(meets)
    assert len(found) == meets.sum()
    assert found.boxes.min() == 0
    assert found.boxes[:, 2].max() == width
    assert found.boxes[:, 3].max() == height
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_no_more_is_found_than_asked_for_and_the_best_come_first():
    model = eager_to_answer(model_of(box_detections_per_image=7, box_score_threshold=0.0))
    (found,) = answers(model, batch_of([(128, 128)]))
    assert len(found) == 7
    model.options.box_detections_per_image = 1000
    (everything,) = answers(model, batch_of([(128, 128)]))
    assert len(everything) > 7
    np.testing.assert_array_equal(found.scores, everything.scores[:7])
    model.options.nms_iou_threshold = 0.05
    assert len(answers(model, batch_of([(128, 128)]))[0]) < len(everything)


def test_rows_that_are_likely_are_those_of_all_rows():
    head = eager_to_answer(model_of()).network.head
    torch.manual_seed(1)
    maps = [torch.randn(2, 3, *sides, 8).double() for sides in ((8, 6), (4, 3), (2, 2))]
    everything = head.decode(maps)
    for threshold in (0.0, 0.4, 0.9, 1.0):
        found = head.decode_likely(maps, threshold)
        assert len(found) == 2
        for rows, image in zip(found, everything, strict=True):
            torch.testing.assert_close(rows, image[image[:, 4] > threshold], rtol=1e-12, atol=1e-12)


def test_pictures_lie_in_the_middle_of_gray_with_the_odd_pixel_after():
    batch = batch_of([(31, 32), (30, 29)])
    frames = framed(batch.images, batch.picture_sizes, (32, 64))
    assert torch.equal(frames[0, :, :, 16:47], batch.images[0, :, :, :31])
    assert (frames[0, :, :, :16] == GRAY).all()
    assert (frames[0, :, :, 47:] == GRAY).all()
    assert torch.equal(frames[1, :, 1:30, 17:47], batch.images[1, :, :29, :30])
    assert (frames[1, :, :1] == GRAY).all()
    assert (frames[1, :, 30:] == GRAY).all()


def test_the_truth_is_shares_of_the_rectangle_without_crowds_and_boxes_without_extent():
    sizes = [(60, 40), (64, 30), (20, 20)]
    boxes = [
        (0, 2, 10, 5, 30, 35),
        (0, 1, 10, 5, 30, 35, "crowd"),
        (2, 0, 0, 0, 20, 20),
        (2, 1, 4, 4, 4, 9),
    ]
    batch = batch_of(sizes, boxes=boxes)
    rectangle = rectangle_around(sizes)
    assert rectangle == (64, 64)
    expected = [
        [0, 2, (2 + 20) / 64, (12 + 20) / 64, 20 / 64, 30 / 64],
        [2, 0, (22 + 10) / 64, (22 + 10) / 64, 20 / 64, 20 / 64],
    ]
    np.testing.assert_allclose(truth_of(batch, rectangle), expected, rtol=1e-6)


def test_crowds_teach_nothing():
    model = model_of().eval()
    objects = [(0, 2, 10, 5, 50, 45)]
    plain = model.losses(batch_of([(64, 64)], boxes=objects))
    crowded = model.losses(batch_of([(64, 64)], boxes=[*objects, (0, 1, 0, 0, 60, 60, "crowd")]))
    other = model.losses(batch_of([(64, 64)], boxes=[*objects, (0, 1, 0, 0, 60, 60)]))
    assert plain.keys() == crowded.keys() == {"box", "objectness", "class"}
    assert all(torch.equal(plain[name], crowded[name]) for name in plain)
    assert not torch.equal(plain["objectness"], other["objectness"])


def test_losses_do_not_depend_on_how_a_batch_is_padded():
    model = model_of().eval().double()
    batch = batch_of([(50, 30), (64, 32)], boxes=[(0, 0, 5, 5, 25, 25), (1, 1, 10, 5, 60, 30)])
    wider = replace(batch, images=torch.nn.functional.pad(batch.images, (0, 40, 0, 9), value=7))
    first, second = model.losses(batch), model.losses(wider)
    for name, loss in first.items():
        torch.testing.assert_close(loss, second[name], rtol=1e-12, atol=0)


def test_options_of_the_loss_reach_it():
    batch = batch_of([(64, 64)], boxes=[(0, 2, 10, 5, 50, 45)])
    plain = model_of().eval().losses(batch)
    for option, value, name, factor in (
        ("box_gain", 0.1, "box", 2),
        ("objectness_gain", 3.0, "objectness", 3),
        ("class_gain", 1.0, "class", 2),
        ("image_size", 320, "objectness", 0.25),
    ):
        changed = model_of(**{option: value}).eval().losses(batch)
        for key, loss in changed.items():
            torch.testing.assert_close(loss, plain[key] * (factor if key == name else 1))
    for option, value, name in (
        ("class_positive_weight", 2.0, "class"),
        ("objectness_positive_weight", 2.0, "objectness"),
        ("label_smoothing", 0.5, "class"),
        ("focal_gamma", 1.5, "objectness"),
        ("anchor_threshold", 1.05, "box"),
    ):
        assert not torch.isclose(model_of(**{option: value}).eval().losses(batch)[name], plain[name]), option


def test_levels_are_balanced_in_training_alone():
    model = model_of(balance_levels=True)
    batch = batch_of([(64, 64)] * 2, boxes=[(0, 2, 10, 5, 50, 45)])
    before = model.loss.balance.clone()
    model.eval().losses(batch)
    assert torch.equal(model.loss.balance, before)
    model.train().losses(batch)
    assert not torch.equal(model.loss.balance, before)
    assert "loss.balance" not in model.state_dict()


def test_several_scales_are_drawn_from_the_seed_and_in_training_alone():
    seen = []
    model = model_of(multi_scale=True, image_size=128)
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    batch = batch_of([(128, 64)] * 2, boxes=[(0, 2, 10, 5, 50, 45)])
    torch.manual_seed(3)
    for _ in range(8):
        model.train().losses(batch)
    drawn = seen.copy()
    assert len(set(drawn)) > 2
    assert all(height % 32 == width % 32 == 0 and 64 <= width <= 192 for height, width in drawn)
    assert all(height == -(-width // 64) * 32 for height, width in drawn)
    seen.clear()
    torch.manual_seed(3)
    for _ in range(8):
        model.losses(batch)
    assert seen == drawn
    seen.clear()
    model.eval().losses(batch)
    assert seen == [(64, 128)]


def test_the_smallest_size_can_be_scaled_too():
    torch.manual_seed(0)
    sides = {rescaled(torch.zeros(1, 3, 32, 32), 32).shape[-1] for _ in range(40)}
    assert sides == {32, 64}


def test_a_model_for_prediction_answers_the_same():
    model = eager_to_answer(model_of())
    batch = batch_of([(96, 64), (70, 41)])
    before = answers(model, batch)
    model.for_prediction()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules())
    for found, other in zip(answers(model, batch), before, strict=True):
        assert len(found) == len(other) > 0
        np.testing.assert_allclose(found.boxes, other.boxes, atol=0.01)
        np.testing.assert_allclose(found.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "network."])
def test_public_names_fill_the_network_with_or_without_a_prefix(prefix, tmp_path):
    given = {name: value for name, value in model_of(seed=5).network.state_dict().items()}
    state = {f"{prefix}{name}": value.half() if value.is_floating_point() else value for name, value in given.items()}
    torch.save({**state, f"{prefix}model.24.anchor_grid": torch.zeros(3, 1, 3, 1, 1, 2)}, tmp_path / "w.pt")
    model = model_of(classes=5)
    head = {name: value.clone() for name, value in model.network.head.m.state_dict().items()}
    load_start_weights(model, str(tmp_path / "w.pt"))
    for name, value in model.network.state_dict().items():
        if not name.startswith("model.24.m."):
            torch.testing.assert_close(value, state[f"{prefix}{name}"].to(value.dtype), rtol=0, atol=0)
    assert all(torch.equal(value, head[name]) for name, value in model.network.head.m.state_dict().items())


def test_another_word_for_the_largest_size():
    assert SIZES["xlarge"] is SIZES["extra_large"]


def test_a_size_between_the_strides_is_refused_with_the_ones_beside_it():
    with pytest.raises(ConfigError, match=r"model\.image_size=630 is no multiple of 32\. Choose 608 or 640\."):
        find_weights(pretrained=False, backbone=None, image_size=630)
    with pytest.raises(ConfigError, match="is no multiple of 32"):
        model_of(image_size=100)


def test_pretrained_without_a_backbone_is_refused_before_anything_is_read():
    with pytest.raises(WeightsError, match=r"model\.weights=FILE.*model\.backbone=resnet50"):
        find_weights(pretrained=True, backbone=None, image_size=640)
    find_weights(pretrained=False, backbone=None, image_size=640)


# A network of timm in place of the first layers

SMALL_TIMM = "test_resnet"


def test_a_timm_network_takes_the_place_of_the_first_layers():
    model = model_of(backbone=SMALL_TIMM)
    assert [name for name in model.network.model] == ["10", "13", "14", "17", "18", "20", "21", "23", "24"]
    batch = batch_of([(96, 64), (70, 41)], boxes=[(0, 2, 10, 5, 50, 45)])
    sum(model.train().losses(batch).values()).backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]
    found = answers(eager_to_answer(model), batch)
    assert [len(objects) > 0 for objects in found] == [True, True]
    model.for_prediction()
    for objects, before in zip(answers(model, batch), found, strict=True):
        np.testing.assert_allclose(objects.boxes, before.boxes, atol=0.01)


def test_features_of_a_timm_network_are_of_the_three_strides_and_normalised():
    features = model_of(backbone=SMALL_TIMM).network.backbone.eval()
    images = torch.rand(1, 3, 64, 96)
    given = []
    features.body.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        levels = features(images)
    assert [tuple(level.shape[-2:]) for level in levels] == [(8, 12), (4, 6), (2, 3)]
    assert tuple(level.shape[1] for level in levels) == features.channels
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    torch.testing.assert_close(given[0], (images - mean) / std)


def test_the_stages_of_a_timm_network_can_be_frozen():
    model = model_of(backbone=SMALL_TIMM)
    names = [name for name, _ in model.named_parameters()]
    assert len(model.freezable) >= 4
    for group in model.freezable:
        assert all(name.startswith("network.backbone.body.") for name in names if name.startswith(group))
        assert any(name.startswith(group) for name in names)


def test_weights_of_the_timm_network_alone_fill_it(tmp_path):
    given = model_of(backbone=SMALL_TIMM, seed=5).network.backbone.body.state_dict()
    torch.save(given, tmp_path / "w.pt")
    model = model_of(backbone=SMALL_TIMM)
    load_start_weights(model, str(tmp_path / "w.pt"))
    assert all(torch.equal(value, given[name]) for name, value in model.network.backbone.body.state_dict().items())


def test_a_timm_network_starts_from_its_published_weights(cache):  # noqa: F811
    torch.manual_seed(4)
    state = trained_looking(timm.create_model(SMALL_TIMM))
    put_in_hub(cache, "test_resnet.r160_in1k", state)
    find_weights(pretrained=True, backbone=SMALL_TIMM, image_size=640)
    body = model_of(backbone=SMALL_TIMM, pretrained=True).network.backbone.body.state_dict()
    given = [name for name in body if name in state]
    assert len(given) > 40
    assert all(torch.equal(body[name], state[name]) for name in given)


def test_an_unsuitable_backbone_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"model\.backbone=resnet5000: timm has no such architecture"):
        find_weights(pretrained=True, backbone="resnet5000", image_size=640)
    with pytest.raises(ConfigError, match=r"model\.backbone=: timm has no .* or leave model\.backbone out\.$"):
        model_of(backbone="")
    with pytest.raises(ConfigError, match=r"model\.backbone=test_vit cannot be used"):
        find_weights(pretrained=False, backbone="test_vit", image_size=640)


# Auto-anchor


def labelled(sizes, image=(640, 480)):
    """One image of this width and height for each list of object sizes in pixels, and one crowd that is left out."""
    samples = []
    for objects in sizes:
        sides = np.array([*objects, (image[0], image[1])], dtype=np.float64) / image
        boxes = np.hstack([np.zeros_like(sides), sides])
        crowd = np.arange(len(boxes)) == len(boxes) - 1
        samples.append(
            Sample(image="a.jpg", target=Boxes(labels=np.zeros(len(boxes), dtype=np.int64), boxes=boxes, crowd=crowd))
        )
    headers = [ImageHeader(width=image[0], height=image[1])] * len(samples)
    return LabelledImages(samples=samples, classes=("thing",), source="here", headers=headers)


def test_sizes_of_objects_are_pixels_of_training():
    sizes = object_sizes(labelled([[(64, 48), (10, 20)], []]), 320)
    np.testing.assert_allclose(sizes, [[32, 24], [5, 10]])


def test_anchors_are_kept_where_they_suit_and_fitted_where_not(tmp_path, caplog):
    random = np.random.default_rng(0)
    model = model_of()
    usual = model.network.head.anchors.clone()
    suiting = labelled([random.uniform(30, 200, (40, 2)).tolist() for _ in range(5)])
    with caplog.at_level("INFO", logger="lightning_automl_vision"):
        model.prepare(suiting, tmp_path)
    assert torch.equal(model.network.head.anchors, usual)
    assert "100.0 % of 200 objects" in caplog.text
    assert (tmp_path / "anchors.png").stat().st_size > 1000
    tiny = labelled([random.uniform(1.5, 4, (40, 2)).tolist() for _ in range(5)])
    (tmp_path / "off").mkdir()
    off = model_of(auto_anchor=False)
    off.prepare(tiny, tmp_path / "off")
    assert torch.equal(off.network.head.anchors, usual)
    assert not list((tmp_path / "off").iterdir())
    caplog.clear()
    with caplog.at_level("INFO", logger="lightning_automl_vision"):
        model.prepare(tiny, tmp_path)
    pixels = model.network.head.anchors * torch.tensor(STRIDES).view(3, 1, 1)
    assert float(pixels.min()) > 1
    assert float(pixels.max()) < 8
    assert (pixels.prod(dim=2).flatten().diff() >= 0).all()
    sides = [f"{side:.1f}" for side in pixels.flatten().tolist()]
    anchors = ", ".join(f"{width} x {height}" for width, height in zip(sides[::2], sides[1::2], strict=True))
    assert f"new ones, which take their place: {anchors}" in caplog.text
    again = model_of()
    again.prepare(tiny, tmp_path)
    assert torch.equal(again.network.head.anchors, model.network.head.anchors)


def test_objects_that_no_anchor_can_reach_are_refused(tmp_path):
    model = model_of(image_size=640)
    with pytest.raises(DataError, match=r"Anchors reach 0\.0 % of the 2 objects, .* Raise model\.image_size or"):
        model.prepare(labelled([[(0.2, 0.2), (0.3, 0.2)]]), tmp_path)


def test_few_objects_of_extreme_shapes_are_anchors_themselves(tmp_path):
    model = model_of(image_size=640)
    model.prepare(labelled([[(600, 4), (5, 450)]]), tmp_path)
    sizes = (model.network.head.anchors * torch.tensor(STRIDES).view(3, 1, 1)).view(-1, 2)
    assert all(min(side) < 8 < 300 < max(side) for side in sizes.tolist())


def test_without_any_object_the_anchors_stay(tmp_path):
    model = model_of()
    usual = model.network.head.anchors.clone()
    model.prepare(labelled([[], []]), tmp_path)
    assert torch.equal(model.network.head.anchors, usual)
