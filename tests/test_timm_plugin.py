"""The timm plugin: the documented models, pretrained weights from a cache made here, and timm's other classifiers."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading

import pytest
import timm
import torch
from huggingface_hub import constants
from pictures import write_folders
from safetensors.torch import load_file, save_file

from lav_timm.architectures import ARCHITECTURES
from lav_timm.model import build
from lightning_automl_vision.errors import ConfigError, WeightsError
from lightning_automl_vision.plugins import model_spec, model_specs

TOY = "test_vit3"
TOY_ON_HUB = "timm/test_vit3.r160_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TASK = "image_classification"


def toy_classifier(**options):
    return build(**{"architecture": TOY, "task": TASK, "num_classes": 3, "image_size": 160, **options})


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache and torch cache, with the network declared off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def put_in_cache(cache, repository, state):
    """The layout the hub's client leaves behind."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


def random_state(architecture):
    torch.manual_seed(5)
    network = timm.create_model(architecture, pretrained=False)
    return {
        key: torch.rand_like(value) if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }


def test_cached_weights_are_loaded_without_network(hub_cache):
    file = put_in_cache(hub_cache, TOY_ON_HUB, random_state(TOY))
    model_spec("timm").check_weights(architecture=TOY, pretrained=True)
    published = load_file(file)
    own = toy_classifier(pretrained=True).network.state_dict()
    assert own["head.weight"].shape[0] == 3
    body = [key for key in own if not key.startswith("head.")]
    assert len(body) > 20
    for key in body:
        assert torch.equal(own[key], published[key]), key


def test_weights_at_another_image_size_are_resampled_by_timm(hub_cache):
    put_in_cache(hub_cache, TOY_ON_HUB, random_state(TOY))
    model = toy_classifier(pretrained=True, image_size=96)
    assert model(torch.zeros(1, 3, 96, 96, dtype=torch.uint8)).shape == (1, 3)


def test_weights_in_the_cache_of_torch_are_found_too(hub_cache, tmp_path):
    state = random_state("mobilenetv2_100")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "mobilenetv2_100_ra-b33bc2c4.pth")
    spec = model_spec("mobilenetv2")
    spec.check_weights(pretrained=True)
    model = spec.build(task=TASK, num_classes=3, image_size=64, pretrained=True)
    assert torch.equal(model.backbone().conv_stem.weight, state["conv_stem.weight"])


WAYS_OUT = (
    r"resnet18.a1_in1k are not in .*hub, and https://huggingface.co/timm/resnet18.a1_in1k cannot be had \(.+\)\."
    r" Connect once .* model.weights=FILE, .* model.pretrained=false\.$"
)


def test_missing_weights_are_refused_with_the_three_ways_out(hub_cache):
    with pytest.raises(WeightsError, match=WAYS_OUT) as caught:
        model_spec("resnet18").check_weights(pretrained=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=WAYS_OUT):
        model_spec("resnet18").build(task=TASK, num_classes=3, image_size=64, pretrained=True)


def test_without_pretraining_no_weights_are_looked_for(hub_cache):
    model_spec("resnet18").check_weights(pretrained=False)
    assert not hub_cache.exists()


@pytest.mark.parametrize("spoil", ["rename", "reshape", "truncate"])
def test_a_cached_file_that_does_not_fit_is_refused(spoil, hub_cache):
    state = random_state(TOY)
    if spoil == "rename":
        state["something.else"] = state.pop("blocks.0.attn.qkv.weight")
    if spoil == "reshape":
        state["blocks.0.attn.qkv.weight"] = torch.zeros(2, 2)
    file = put_in_cache(hub_cache, TOY_ON_HUB, state)
    if spoil == "truncate":
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="does not hold the weights of test_vit3") as caught:
        toy_classifier(pretrained=True)
    assert "\n" not in str(caught.value)


def test_an_architecture_without_published_weights_is_refused(hub_cache):
    with pytest.raises(WeightsError, match="timm publishes no pretrained weights for vit_giant_patch14_224"):
        model_spec("timm").check_weights(architecture="vit_giant_patch14_224", pretrained=True)


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's client asks for: one file, with its digest and commit."""

    content = b""

    def do_HEAD(self):
        found = self.path == f"/{TOY_ON_HUB}/resolve/main/model.safetensors"
        self.send_response(200 if found else 404)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    file = tmp_path / "published.safetensors"
    save_file(random_state(TOY), file)
    handler = type("ToyHub", (Hub,), {"content": file.read_bytes()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ASK = f"""
from lightning_automl_vision.errors import WeightsError
from lightning_automl_vision.plugins import model_spec
try:
    model_spec("timm").check_weights(architecture={TOY!r}, pretrained=True)
    network = model_spec("timm").build(
        task={TASK!r}, num_classes=3, image_size=160, pretrained=True, architecture={TOY!r}
    ).backbone()
    print("loaded", float(network.pos_embed.detach().sum()))
except WeightsError as error:
    print("refused", error)
"""


def ask(**environment):
    """In a process of its own, because the hub's client reads the environment when it is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", ASK], env={**kept, **environment}, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_weights_are_downloaded_once_and_then_read_without_network(hub, tmp_path):
    home = str(tmp_path / "home")
    total = float(load_file(tmp_path / "published.safetensors")["pos_embed"].sum())
    first = ask(HF_HOME=home, HF_ENDPOINT=hub)
    assert first.startswith("loaded")
    assert float(first.split()[1]) == pytest.approx(total, rel=1e-5)
    # Port 9 discards: nobody listens there.
    assert ask(HF_HOME=home, HF_ENDPOINT="http://127.0.0.1:9") == first


def test_an_unreachable_hub_is_noticed_at_once(tmp_path):
    answer = ask(HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    assert answer.startswith(f"refused The pretrained weights of {TOY} are not in {tmp_path}")
    assert "Retrying" not in answer


def test_a_local_file_is_a_way_out_of_missing_weights(tmp_path):
    file = tmp_path / "mine.safetensors"
    save_file(random_state("test_efficientnet"), file)
    arguments = [
        "model=timm",
        "model.architecture=test_efficientnet",
        f"model.weights={file}",
        f"data.training={write_folders(tmp_path / 'pictures')}",
        f"output_dir={tmp_path / 'run'}",
        "training.number_of_epochs=1",
        "training.training_crop_size=64",
        "training.validation_crop_size=64",
        "training.number_of_workers=0",
        "trainer.accelerator=cpu",
    ]
    process = subprocess.run(
        [sys.executable, "-m", "lightning_automl_vision", *arguments],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr


def test_an_unknown_architecture_is_answered_with_near_ones():
    with pytest.raises(ConfigError, match=r"convnxt_tiny: timm has no such architecture\. Near it are convnext_tiny"):
        model_spec("timm").check_weights(architecture="convnxt_tiny", pretrained=False)
    with pytest.raises(ConfigError, match=r"model\.architecture=: timm has no .* Name a timm network, such as \w+\.$"):
        model_spec("timm").check_weights(architecture="", pretrained=False)


def test_an_unknown_tag_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match=r"no weights tagged 'mine' for resnet18. It has: .*resnet18.a1_in1k"):
        model_spec("timm").check_weights(architecture="resnet18.mine", pretrained=False)


def test_an_option_the_architecture_does_not_take_is_refused():
    with pytest.raises(ConfigError, match=r"timm cannot build vgg11 with drop_path_rate=0\.1"):
        build(architecture="vgg11", task=TASK, num_classes=3, image_size=64, pretrained=False, drop_path_rate=0.1)


def test_options_reach_the_network():
    model = toy_classifier(pretrained=False, drop_rate=0.25, drop_path_rate=0.3)
    assert model.network.head_drop.p == 0.25
    assert model.network.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)


def test_images_of_another_size_than_built_for_are_refused():
    with pytest.raises(ConfigError, match="built for 160 x 160 pixels and got 64 x 96"):
        toy_classifier(pretrained=False)(torch.zeros(1, 3, 96, 64, dtype=torch.uint8))


def test_images_are_normalised_as_the_weights_expect():
    model = toy_classifier(pretrained=False)
    published = timm.get_pretrained_cfg(TOY)
    assert (model.mean.flatten() / 255).tolist() == pytest.approx(published.mean)
    assert (model.std.flatten() / 255).tolist() == pytest.approx(published.std)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_table_says_what_timm_builds(name):
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        network = timm.create_model(architecture.name, pretrained=False)
    assert sum(value.numel() for value in network.parameters()) == architecture.parameters
    published = timm.get_pretrained_cfg(architecture.name)
    assert published.license == "apache-2.0"
    assert published.has_weights
    assert (architecture.image_size is not None) == bool(published.fixed_input_size)
    if architecture.image_size is not None:
        assert published.input_size[1:] == (architecture.image_size,) * 2


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("resnet18", "resnet152", "resnest50", "resnest101", "seresnext"), 5),
        (("mobilenetv2",), 19),
        (("vits16r224", "vitb16r224", "vitl16r224"), 13),
    ],
)
def test_layers_are_counted_as_documented(names, groups):
    assert {len(model_spec(name).freezable) for name in names} == {groups}


def test_batch_and_learning_rate_follow_the_documented_table():
    table = {
        "vits16r224": (128, 0.0125, 0.025),
        "vitb16r224": (48, 0.0125, 0.025),
        "vitl16r224": (10, 0.001, 0.002),
    }
    for name, (batch, one_label, several_labels) in table.items():
        defaults = model_spec(name).defaults
        assert defaults[TASK] == {"training_batch_size": batch, "learning_rate": one_label}
        several = defaults["image_classification_multilabel"]
        assert several == {"training_batch_size": batch, "learning_rate": several_labels}
    assert not any(model_specs()[name].defaults for name in ARCHITECTURES if name not in table)


@pytest.mark.parametrize(
    ("architecture", "groups"),
    [("convnext_atto", 6), ("efficientnet_b0", 8), ("swin_tiny_patch4_window7_224", 6), ("resnet10t", 5)],
)
def test_any_classifier_freezes_the_layers_timm_tells_apart(architecture, groups):
    with torch.device("meta"):
        model = build(architecture=architecture, task=TASK, num_classes=3, image_size=224, pretrained=False)
    assert len(model.freezable) == groups
    names = [name for name, _ in model.named_parameters()]
    matched = [name for group in model.freezable for name in names if name.startswith(group)]
    head = [name for name in names if name not in matched]
    assert len(matched) == len(set(matched))
    assert 1 <= len(head) <= 2, head


def test_running_statistics_lie_under_the_prefixes_of_their_layer():
    with torch.device("meta"):
        model = build(architecture="efficientnet_b0", task=TASK, num_classes=3, image_size=224, pretrained=False)
    statistics = [name for name, _ in model.named_buffers() if "running_" in name]
    prefixes = tuple(prefix for group in model.freezable for prefix in group)
    assert statistics
    assert all(name.startswith(prefixes) for name in statistics)


def test_listing_the_models_imports_neither_torch_nor_timm():
    code = "import lav_timm, sys; lav_timm.lav_models(); sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
