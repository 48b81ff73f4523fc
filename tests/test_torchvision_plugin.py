"""The torchvision plugin: torchvision's own losses and answers, crowds, published weights, and timm's backbones."""

import hashlib
import http.server
import threading
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model, resnet18
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from lav_torchvision.architectures import ARCHITECTURES
from lav_torchvision.crowds import in_crowd
from lightning_automl_vision.api import settings
from lightning_automl_vision.data.batching import no_targets
from lightning_automl_vision.downloads import hub_file
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.model_folder import ModelCard, load_weights, save_model
from lightning_automl_vision.models import Batch, BoxTargets
from lightning_automl_vision.plugins import model_spec
from lightning_automl_vision.samples import ScoredBoxes, ScoredMasks
from lightning_automl_vision.training.start_weights import load_start_weights

CLASSES = 3
DETECTION, SEGMENTATION = "image_object_detection", "image_instance_segmentation"
FASTER, MASK = "fasterrcnn_resnet18_fpn", "maskrcnn_resnet18_fpn"
RETINANET, FCOS = "retinanet_resnet50_fpn", "fcos_resnet50_fpn"
FAMILIES = (FASTER, MASK, RETINANET, FCOS)
SAMPLES = 32
BODY = "test_resnet"  # timm's smallest


def build(name, *, classes=CLASSES, **options):
    spec = model_spec(name)
    given = {key: value for key, value in asdict(spec.config(name=name)).items() if key not in ("name", "weights")}
    given |= {"pretrained": False, **({"box_samples_per_image": SAMPLES} if "box_samples_per_image" in given else {})}
    (task,) = spec.tasks
    torch.manual_seed(0)
    return spec.build(task=task, num_classes=classes, image_size=224, **{**given, **options})


def light(name, **options):
    """On a small body, for what does not depend on it."""
    return build(name, backbone=BODY, **options)


def objects(pictures, size=64, crowd=False):
    """Noise; the boxes of each picture are given, all of the second class."""
    boxes = torch.tensor([box for boxes in pictures for box in boxes], dtype=torch.float32).reshape(-1, 4)
    return Batch(
        images=torch.randint(0, 256, (len(pictures), 3, size, size), generator=torch.Generator().manual_seed(3)).byte(),
        targets=BoxTargets(
            labels=torch.ones(len(boxes), dtype=torch.int64),
            boxes=boxes,
            crowd=torch.full((len(boxes),), crowd),
            counts=tuple(map(len, pictures)),
        ),
        keys=[f"{number}.jpg" for number in range(len(pictures))],
    )


def with_crowd(batch, box, picture=0):
    """One more box, a crowd, in a picture."""
    targets = batch.targets
    after = sum(targets.counts[: picture + 1])
    counts = list(targets.counts)
    counts[picture] += 1
    added = replace(
        targets,
        labels=torch.cat([targets.labels[:after], torch.zeros(1, dtype=torch.int64), targets.labels[after:]]),
        boxes=torch.cat([targets.boxes[:after], torch.tensor([box], dtype=torch.float32), targets.boxes[after:]]),
        crowd=torch.cat([targets.crowd[:after], torch.ones(1, dtype=torch.bool), targets.crowd[after:]]),
        counts=tuple(counts),
    )
    return replace(batch, targets=added)


def found_in(model, batch):
    with torch.inference_mode():
        return model.eval().predict(batch)


def numbers(losses):
    return {name: loss.item() for name, loss in losses.items()}


# ---- torchvision's own ----


def torchvisions(name, sides):
    """torchvision's model as its own documentation builds it, with a transform that resizes nothing."""
    sizes = {"min_size": min(sides), "max_size": max(sides), "_skip_resize": True}  # in training, nor draw a size
    if name in (FASTER, MASK):
        backbone = resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        kind = FasterRCNN if name == FASTER else MaskRCNN
        return kind(backbone, CLASSES + 1, box_batch_size_per_image=SAMPLES, box_score_thresh=0.01, **sizes)
    thresholds = {"score_thresh": 0.01, "detections_per_img": 10_000}
    return get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, **thresholds, **sizes)


def torchvisions_truth(batch, background):
    targets = batch.targets
    boxes, labels = targets.split(targets.boxes), targets.split(targets.labels)
    truth = [{"boxes": own, "labels": label + background} for own, label in zip(boxes, labels, strict=True)]
    if hasattr(targets, "polygons"):
        for target, masks in zip(truth, targets.masks(batch.picture_sizes), strict=True):
            target["masks"] = masks
    return truth


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_objects_are_those_of_torchvisions_own_model(name, toy_batch):
    model = build(name, box_score_threshold=0.01)
    batch = toy_batch(SEGMENTATION if name == MASK else DETECTION, images=3, size=70)
    own = torchvisions(name, (70, 70))
    own.load_state_dict(model.network.state_dict())
    background = 1 if name in (FASTER, MASK) else 0
    pictures = list(batch.images.float() / 255)

    torch.manual_seed(5)
    expected = own.train()(pictures, torchvisions_truth(batch, background))
    torch.manual_seed(5)
    losses = model.train().losses(batch)
    assert {f"loss_{key}" if f"loss_{key}" in expected else key for key in losses} == set(expected)
    for key, loss in losses.items():
        assert loss.item() == pytest.approx(expected.get(f"loss_{key}", expected.get(key)).item(), abs=1e-6), key

    with torch.inference_mode():
        answers = own.eval()(pictures)
    for found, answer in zip(found_in(model, batch), answers, strict=True):
        boxes = answer["boxes"]
        first = torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1))[0][:100]
        assert 0 < len(first) == len(found)
        np.testing.assert_allclose(found.boxes, boxes[first].numpy(), atol=1e-4)
        np.testing.assert_allclose(found.scores, answer["scores"][first].numpy(), atol=1e-6)
        np.testing.assert_array_equal(found.labels, answer["labels"][first].numpy() - background)
        assert type(found) is (ScoredMasks if name == MASK else ScoredBoxes)


@pytest.mark.parametrize("name", [name for name, found in ARCHITECTURES.items() if found.coco])
def test_a_model_that_torchvision_has_is_put_together_as_torchvision_does(name):
    with torch.device("meta"):
        mine = build(name, classes=91 - ARCHITECTURES[name].family.background)
        own = get_model(name, weights=None, weights_backbone=None)
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (mine.network, own)]
    assert shapes[0] == shapes[1]
    if name == "retinanet_resnet50_fpn_v2":
        assert mine.network.head.regression_head._loss_type == own.head.regression_head._loss_type
    assert sum(value.numel() for value in mine.parameters()) == ARCHITECTURES[name].parameters


def test_the_prepared_size_decides_and_nothing_is_resized_again():
    model = light(FASTER, min_size=300, max_size=500, box_score_threshold=0.0)
    assert model.resizing.as_settings() == {"resize": "short_side", "min_size": 300, "max_size": 500}
    batch = replace(objects([[], []], size=96), sizes=[(96, 64), (50, 96)])
    for found, (width, height) in zip(found_in(model, batch), batch.sizes, strict=True):
        assert (found.width, found.height) == (width, height)
        assert len(found) > 0
        assert found.boxes[:, 2].max() <= width
        assert found.boxes[:, 3].max() <= height


def test_what_pads_a_picture_means_nothing():
    model = light(FASTER, box_score_threshold=0.0)
    batch = replace(objects([[], []], size=96), sizes=[(96, 64), (50, 96)])
    other = batch.images.clone()
    other[0, :, 64:] = 255
    other[1, :, :, 50:] = 255
    for found, again in zip(found_in(model, batch), found_in(model, replace(batch, images=other)), strict=True):
        np.testing.assert_array_equal(found.boxes, again.boxes)


@pytest.mark.parametrize("name", FAMILIES)
def test_limits_are_heeded(name, toy_batch):
    batch = toy_batch(SEGMENTATION if name == MASK else DETECTION, images=1, size=96)
    everything = found_in(light(name, box_score_threshold=0.0, nms_iou_threshold=1.0), batch)
    few = found_in(light(name, box_score_threshold=0.0, box_detections_per_image=7), batch)
    assert max(map(len, everything)) == 100
    assert {len(found) for found in few} == {7}
    assert not any(map(len, found_in(light(name, box_score_threshold=1.0), batch)))


def test_mask_options_reach_what_is_answered(toy_batch):
    model = light(MASK, mask_pixel_score_threshold=0.25, max_number_of_polygon_points=12, box_detections_per_image=5)
    model.box_score_threshold = 0.0
    found = found_in(model, toy_batch(SEGMENTATION))[0]
    assert len(found) == 5
    assert found.pixel_threshold == 0.25
    assert found.shapes.shape == (len(found), 28, 28)
    assert model.max_number_of_polygon_points == 12


def test_boxes_are_decoded_in_full_precision_in_a_training_of_mixed_precision():
    for name in FAMILIES[:1] + FAMILIES[2:]:
        model = light(name, box_score_threshold=0.0)
        batch = objects([[[200, 200, 330, 340]]], size=352)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(loss.isfinite() for loss in model.train().losses(batch).values())
            boxes = found_in(model, batch)[0].boxes
        inner = boxes[(boxes > 256) & (boxes < 351)]
        assert len(inner) > 0
        assert (inner % 1).any(), "there are no halves above 256 in 16 bits"


# ---- losses in evaluation ----


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_of_an_evaluation_are_those_of_training_with_norms_at_rest(name, toy_batch):
    model = light(name, freeze_norms=True)
    batch = toy_batch(SEGMENTATION if name == MASK else DETECTION)
    torch.manual_seed(0)
    training = numbers(model.train().losses(batch))
    torch.manual_seed(9)
    assert numbers(model.eval().losses(batch)) == training


# ---- crowds ----


def test_a_box_is_in_a_crowd_by_the_share_of_its_own_area():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 21], [50, 50, 60, 60]])
    crowds = torch.tensor([[0.0, 0, 100, 10], [200, 200, 300, 300]])
    assert in_crowd(boxes, crowds).tolist() == [True, True, False, False]
    assert in_crowd(boxes, crowds[:0]).tolist() == [False] * 4


CROWD = [4.0, 4, 40, 40]
OBJECT = [20.0, 20, 60, 60]


def assigned(model, batch):
    """Of every anchor of the proposals: 1 an object, 0 background, -1 neither; and the anchors."""
    network = model.network
    with torch.no_grad():
        images, _ = network.transform(list(batch.images / 255))
        anchors = network.rpn.anchor_generator(images, list(network.backbone(images.tensors).values()))
    labels, _ = network.rpn.assign_targets_to_anchors(anchors, model._truth(batch))
    return torch.cat(labels), torch.cat(anchors)


def test_a_crowd_takes_background_from_the_proposals_and_nothing_else():
    model, batch = light(FASTER), objects([[OBJECT]])
    crowd = [4.0, 4, 64, 64]
    before, anchors = assigned(model, batch)
    after, _ = assigned(model, with_crowd(batch, crowd))
    within = in_crowd(anchors, torch.tensor([crowd]))
    assert (within & (before == 1)).any(), "it holds the object"
    changed = before != after
    assert changed.any()
    assert (before[changed] == 0).all()
    assert (after[changed] == -1).all()
    assert torch.equal(changed, (before == 0) & within)


def test_a_crowd_takes_background_from_the_heads_and_nothing_else():
    heads, truth = light(FASTER, box_samples_per_image=512).network.roi_heads, {"boxes": torch.tensor([OBJECT])}
    proposals = torch.tensor([[5.0, 5, 30, 30], [50, 5, 62, 20], [22, 22, 58, 58], [4, 4, 60, 60]])
    alone = heads._outside(proposals, {**truth, "crowds": torch.zeros(0, 4)})
    assert torch.equal(alone, proposals)
    crowd = torch.tensor([[0.0, 0, 64, 64]])
    within = heads._outside(proposals, {**truth, "crowds": crowd})
    assert torch.equal(within, proposals[2:]), "the two that show the object stay, though they lie in the crowd"
    small = heads._outside(proposals, {**truth, "crowds": torch.tensor([CROWD])})
    assert torch.equal(small, proposals[1:])


@pytest.mark.parametrize("name", [RETINANET, FCOS])
def test_a_crowd_takes_background_from_the_classes_and_nothing_else(name):
    model, batch = light(name).train(), objects([[OBJECT], []])
    alone = numbers(model.losses(batch))
    seldom = numbers(model.losses(with_crowd(batch, [0.0, 0, 2, 2])))
    assert seldom == pytest.approx(alone, abs=1e-7), "no anchor lies in it by half"
    crowded = numbers(model.losses(with_crowd(batch, CROWD)))
    assert crowded.pop("classification") < alone.pop("classification")
    assert crowded == pytest.approx(alone, abs=1e-7)


@pytest.mark.parametrize("name", [RETINANET, FCOS])
def test_no_gradient_comes_out_of_a_crowd(name):
    model = light(name).train()
    total = model.losses(with_crowd(objects([[]]), [-9e3, -9e3, 9e3, 9e3]))["classification"]
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert model.network.head.classification_head.cls_logits.weight.grad.abs().max() < 1e-9


@pytest.mark.parametrize("name", FAMILIES[:1] + FAMILIES[2:])
def test_pictures_that_are_nothing_but_crowd_teach_nothing(name):
    model = light(name).train()
    losses = model.losses(objects([[[-9e3, -9e3, 9e3, 9e3]]] * 2, crowd=True))
    assert {key: round(loss, 6) for key, loss in numbers(losses).items()} == dict.fromkeys(losses, 0)
    sum(losses.values()).backward()
    assert all(weight.grad is not None for key, weight in model.named_parameters()), "other processes wait for them"


def test_crowds_have_no_mask_to_learn(toy_batch):
    model, batch = light(MASK).train(), toy_batch(SEGMENTATION)
    crowded = replace(batch, targets=replace(batch.targets, crowd=torch.ones_like(batch.targets.crowd)))
    assert all(not len(target["masks"]) and len(target["labels"]) == 0 for target in model._truth(crowded))
    assert model.losses(crowded)["mask"].item() == 0


def test_a_box_without_extent_is_no_object():
    batch = objects([[OBJECT, [5.0, 5, 5, 9]]])
    (truth,) = light(FASTER)._truth(batch)
    assert truth["boxes"].tolist() == [OBJECT]


# ---- published weights ----


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch's hub and of the other hub, and no way out to the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def trained_looking(module):
    """A state dict whose statistics are no longer the initial ones; at the stem an epsilon matters."""
    generator = torch.Generator().manual_seed(1)
    state = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    for key, value in state.items():
        if key.endswith("running_var"):
            state[key] = torch.rand(value.shape, generator=generator) + 0.5
    for key in state.keys() & {"bn1.running_var", "backbone.body.bn1.running_var"}:
        state[key] *= 1e-4
    return state


def old_names(state):
    """As torchvision called them when it published the first weights."""
    changes = {"inner_blocks.{}.0": "inner_blocks.{}", "layer_blocks.{}.0": "layer_blocks.{}"}
    changes = {new.format(level): old.format(level) for new, old in changes.items() for level in range(4)}
    changes["rpn.head.conv.0.0"] = "rpn.head.conv"
    renamed = {}
    for key, value in state.items():
        for new, old in changes.items():
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


COCO_FILE = "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"


@pytest.fixture
def coco(cache):
    """Weights of the whole network under the name of the published file."""
    torch.manual_seed(2)
    state = trained_looking(get_model("fasterrcnn_resnet50_fpn", weights=None, weights_backbone=None))
    torch.save(old_names(state), cache / COCO_FILE)
    return state


def test_a_start_from_coco_sees_what_torchvisions_does(coco):
    spec = model_spec("fasterrcnn_resnet50_fpn")
    spec.check_weights(pretrained=True, backbone=None)
    model = build("fasterrcnn_resnet50_fpn", pretrained=True, classes=2).eval()
    own = get_model("fasterrcnn_resnet50_fpn", weights="COCO_V1").eval()
    picture = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for mine, theirs in zip(model.network.backbone(picture).values(), own.backbone(picture).values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    mine, theirs = model.network.state_dict(), own.state_dict()
    for part in ("rpn.head.conv.0.0.weight", "roi_heads.box_head.fc7.weight", "backbone.fpn.layer_blocks.3.0.bias"):
        assert torch.equal(mine[part], theirs[part])
    assert model.network.roi_heads.box_predictor.cls_score.out_features == 3


def test_norms_with_published_weights_rest_and_everything_else_learns(coco, toy_batch):
    model = build("fasterrcnn_resnet50_fpn", pretrained=True).train()
    body = model.network.backbone.body
    before = {key: value.clone() for key, value in body.state_dict().items() if "bn1" in key}
    sum(model.losses(toy_batch(DETECTION, images=2)).values()).backward()
    assert all(torch.equal(value, before[key]) for key, value in body.state_dict().items() if key in before)
    idle = {key.rsplit(".", 2)[-2] for key, value in model.named_parameters() if value.grad is None}
    assert idle == {"bn1", "bn2", "bn3", "1"}, "the norms, that of a shortcut is its second part"
    assert all(value.requires_grad for key, value in build(FASTER, pretrained=False).named_parameters() if "bn" in key)


def test_a_model_that_started_from_published_weights_is_loaded_without_them(coco, toy_batch, tmp_path):
    model = build("fasterrcnn_resnet50_fpn", pretrained=True, box_score_threshold=0.0)
    card = ModelCard(task=DETECTION, name="x", parameters={}, image_size=0, labels=["a"], settings={})
    save_model(tmp_path / "model", card, model)
    other = build("fasterrcnn_resnet50_fpn", pretrained=False, box_score_threshold=0.0)
    load_weights(other, tmp_path / "model" / "weights.safetensors")
    batch = toy_batch(DETECTION, images=2)
    for left, right in zip(found_in(model, batch), found_in(other, batch), strict=True):
        np.testing.assert_array_equal(left.boxes, right.boxes)


def test_a_file_of_published_weights_can_be_named(coco, cache):
    model = build("fasterrcnn_resnet50_fpn")
    load_start_weights(model, str(cache / COCO_FILE))
    own = model.network.state_dict()
    for key, value in coco.items():
        assert "box_predictor" in key or torch.equal(own[key], value), key


def test_a_resnet_starts_from_imagenet(cache):
    state = trained_looking(resnet18())
    torch.save(state, cache / "resnet18-f37072fd.pth")
    model_spec(FASTER).check_weights(pretrained=True, backbone=None)
    body = build(FASTER, pretrained=True).network.backbone.body.state_dict()
    assert {key for key in state if not key.startswith("fc.")} == {key for key in body if "tracked" not in key}
    assert all(torch.equal(body[key], value) for key, value in state.items() if not key.startswith("fc."))
    named = build(FASTER)
    load_start_weights(named, str(cache / "resnet18-f37072fd.pth"))
    assert torch.equal(named.network.backbone.body.layer4[1].bn2.running_var, state["layer4.1.bn2.running_var"])


WAYS_OUT = (
    r"are not in .*checkpoints, and https://download.pytorch.org/models/.*\.pth cannot be had \(.+\)\."
    r" Connect once .* model.weights=FILE, .* model.pretrained=false\.$"
)


@pytest.mark.parametrize("name", [*FAMILIES, "maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn_v2"])
def test_missing_weights_are_refused_with_the_three_ways_out(name, cache):
    with pytest.raises(WeightsError, match=f"^The pretrained weights of {name} {WAYS_OUT}") as caught:
        model_spec(name).check_weights(pretrained=True, backbone=None)
    assert "\n" not in str(caught.value)
    model_spec(name).check_weights(pretrained=False, backbone=None)


@pytest.mark.parametrize("spoil", ["rename", "reshape", "drop", "truncate", "nonsense"])
def test_a_cached_file_that_does_not_fit_is_refused(spoil, cache):
    state = trained_looking(resnet18())
    if spoil in ("rename", "drop"):
        tensor = state.pop("layer3.0.conv1.weight")
        state |= {"another.weight": tensor} if spoil == "rename" else {}
    if spoil == "reshape":
        state["layer3.0.conv1.weight"] = torch.zeros(2, 2)
    file = cache / "resnet18-f37072fd.pth"
    torch.save([1, 2] if spoil == "nonsense" else state, file)
    if spoil == "truncate":
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        WeightsError, match=f"{file.name} does not hold the weights of {FASTER}: .+ Delete it"
    ) as caught:
        build(FASTER, pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.fixture
def server():
    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"12345")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_is_downloaded_must_have_the_digest_in_its_name(cache, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    digest = hashlib.sha256(b"12345").hexdigest()[:8]
    file = hub_file(f"{server}/net-{digest}.pth", of="a net")
    assert file == cache / f"net-{digest}.pth"
    assert file.read_bytes() == b"12345"
    with pytest.raises(WeightsError, match=r"of a net are not in .* cannot be had \(invalid hash value"):
        hub_file(f"{server}/net-00000000.pth", of="a net")
    assert not (cache / "net-00000000.pth").exists()


# ---- other backbones ----


def put_in_hub(cache, name, state):
    snapshot = cache.parents[2] / "hub" / f"models--timm--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_on_a_timm_backbone(name, toy_batch):
    model = light(name).train()
    losses = model.losses(toy_batch(SEGMENTATION if name == MASK else DETECTION))
    sum(losses.values()).backward()
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize(("body", "stages"), [("test_resnet", 5), ("test_convnext", 4), ("test_efficientnet", 5)])
def test_layer_groups_of_a_backbone_are_its_stages(body, stages):
    model = build(FASTER, backbone=body)
    names = [key for key, _ in model.named_parameters() if key.startswith("network.backbone.body.")]
    grouped = [[key for key in names if key.startswith(group)] for group in model.freezable]
    assert len(grouped) == stages
    assert [key for group in grouped for key in group] == names


def test_a_backbone_starts_from_timms_weights_and_rests_its_norms(cache, toy_batch):
    import timm

    torch.manual_seed(4)
    state = trained_looking(timm.create_model(BODY))
    put_in_hub(cache, "test_resnet.r160_in1k", state)
    model_spec(FASTER).check_weights(pretrained=True, backbone=BODY)
    model = light(FASTER, pretrained=True).train()
    body = model.network.backbone.body.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in body.items() if key in state)
    assert len(set(body) & set(state)) > 40
    model.losses(toy_batch(DETECTION))
    assert all(torch.equal(model.network.backbone.body.state_dict()[key], body[key]) for key in body)
    assert model.network.transform.image_mean == list(timm.get_pretrained_cfg(BODY).mean)


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("resnet1", r"model.backbone=resnet1: timm has no such architecture. Near it are .*resnet"),
        ("", r"model.backbone=: timm has no such.* Name a timm network, .*, or leave model.backbone out\.$"),
        ("resnet18.mine", r"model.backbone=resnet18.mine: timm has no weights tagged 'mine' for resnet18"),
        ("test_vit", r"model.backbone=test_vit cannot be used: .* its features have strides of 16\. Choose a convol"),
        ("test_maxvit", r"model.backbone=test_maxvit cannot be used: .* pixels it says: .*\. Choose a convolutional"),
    ],
)
def test_an_unsuitable_backbone_is_refused_before_the_data_are_read(backbone, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        model_spec(FASTER).check_weights(pretrained=False, backbone=backbone)
    assert "\n" not in str(caught.value)


def test_a_missing_backbone_is_refused_with_the_ways_out(cache):
    with pytest.raises(WeightsError, match=r"weights of test_resnet are not in .*hub, .* model.pretrained=false"):
        model_spec(FASTER).check_weights(pretrained=True, backbone=BODY)


# ---- keys ----


@pytest.mark.parametrize(
    ("old", "key"),
    [
        ("box_score_thresh", "box_score_threshold"),
        ("nms_iou_thresh", "nms_iou_threshold"),
        ("box_nms_thresh", "nms_iou_threshold"),
        ("box_detections_per_img", "box_detections_per_image"),
    ],
)
def test_old_names_are_answered_with_the_right_ones(old, key):
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        settings(task=DETECTION, model={"name": FASTER, old: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("box_score_threshold", 1.5),
        ("nms_iou_threshold", -0.1),
        ("box_detections_per_image", 0),
        ("min_size", 0),
        ("max_size", 0),
        ("box_samples_per_image", 0),
        ("mask_pixel_score_threshold", 2),
        ("max_number_of_polygon_points", 2),
    ],
)
def test_values_out_of_their_range_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"model\.{key}={value}"):
        settings(task=SEGMENTATION, model={"name": MASK, key: value})


def test_a_copy_of_a_model_is_a_model_of_its_own(toy_batch):
    """As averaged weights need it."""
    model, batch = light(FASTER, box_score_threshold=0.0), toy_batch(DETECTION)
    copy = deepcopy(model)
    for value in model.parameters():
        nn.init.zeros_(value)
    model.box_score_threshold = 0.9
    assert copy.box_score_threshold == 0.0
    assert len(found_in(copy, batch)[0]) > 0


def test_as_many_proposals_are_looked_at_as_the_configuration_says():
    model = model_spec("fasterrcnn_resnet18_fpn").build(
        task="image_object_detection", num_classes=2, image_size=64, pretrained=False, proposals_per_image=7
    )
    proposals = []
    model.network.roi_heads.register_forward_pre_hook(lambda _, inputs: proposals.extend(inputs[1]))
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(images=pictures, targets=no_targets(2), keys=["a", "b"])
    with torch.inference_mode():
        model.eval().predict(batch)
    assert 0 < max(len(boxes) for boxes in proposals) <= 7


def test_a_short_side_that_is_longer_than_the_long_one_is_refused():
    with pytest.raises(ConfigError, match=r"model.min_size=200 is more than model.max_size=100"):
        model_spec("fasterrcnn_resnet18_fpn").check_weights(pretrained=False, backbone=None, min_size=200, max_size=100)
