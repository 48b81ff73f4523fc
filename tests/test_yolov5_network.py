"""The network of yolov5 beside the recorded values."""

import re

import numpy as np
import pytest
import torch
from parity import assert_recorded, recorded, rounded, shares, signed

from lav_yolov5.folding import fold_norms
from lav_yolov5.layers import Head, NormedConvolution, class_offset, objectness_offset
from lav_yolov5.network import ANCHORS, STRIDES, Network
from lav_yolov5.sizes import SIZES

NAMES = {"n": "nano", "s": "small", "m": "medium", "l": "large", "x": "extra_large"}
# Weights of the whole network with 80 classes and with 3, and with 80 when norms are folded; tensors and blocks.
WHOLE = {
    "n": (1_872_157, 1_767_976, 1_867_405, 349, 121, 57),
    "s": (7_235_389, 7_027_720, 7_225_885, 349, 121, 57),
    "m": (21_190_557, 20_879_400, 21_172_173, 481, 165, 79),
    "l": (46_563_709, 46_149_064, 46_533_693, 613, 209, 101),
    "x": (86_749_405, 86_231_272, 86_705_005, 745, 253, 123),
}
# Weights of each layer with 80 classes, nano to extra large.
BY_LAYER = {
    0: (1_760, 3_520, 5_280, 7_040, 8_800),
    1: (4_672, 18_560, 41_664, 73_984, 115_520),
    2: (4_800, 18_816, 65_280, 156_928, 309_120),
    3: (18_560, 73_984, 166_272, 295_424, 461_440),
    4: (29_184, 115_712, 444_672, 1_118_208, 2_259_200),
    5: (73_984, 295_424, 664_320, 1_180_672, 1_844_480),
    6: (156_928, 625_152, 2_512_896, 6_433_792, 13_125_120),
    7: (295_424, 1_180_672, 2_655_744, 4_720_640, 7_375_360),
    8: (296_448, 1_182_720, 4_134_912, 9_971_712, 19_676_160),
    9: (164_608, 656_896, 1_476_864, 2_624_512, 4_099_840),
    10: (33_024, 131_584, 295_680, 525_312, 820_480),
    13: (90_880, 361_984, 1_182_720, 2_757_632, 5_332_480),
    14: (8_320, 33_024, 74_112, 131_584, 205_440),
    17: (22_912, 90_880, 296_448, 690_688, 1_335_040),
    18: (36_992, 147_712, 332_160, 590_336, 922_240),
    20: (74_496, 296_448, 1_035_264, 2_495_488, 4_922_880),
    21: (147_712, 590_336, 1_327_872, 2_360_320, 3_687_680),
    23: (296_448, 1_182_720, 4_134_912, 9_971_712, 19_676_160),
    24: (115_005, 229_245, 343_485, 457_725, 571_965),
}
LAST_OF_BOTTLENECK = re.compile(r"\.m\.\d+\.cv2\.bn\.weight$")


def network_of(letter, classes, dtype=torch.float64):
    with torch.device("meta"):
        empty = Network(SIZES[NAMES[letter]], classes)
    network = empty.to_empty(device="cpu").to(dtype)
    network.load_state_dict({name: filled(name, value) for name, value in network.state_dict().items()})
    return network.eval()


def filled(name, value):
    """The weights that the recorded network had."""
    count = value.numel()
    if name == "model.24.anchors":
        numbers = np.array(ANCHORS) / np.array(STRIDES).reshape(3, 1, 1)
    elif name.endswith("num_batches_tracked"):
        numbers = np.ones(count)
    elif value.ndim == 4:
        strength = 12 if name.startswith("model.24.") else 7
        numbers = rounded(signed(name, count) * np.sqrt(strength / value[0].numel()))
    elif name.startswith("model.24."):
        numbers = rounded(0.5 * signed(name, count))
    elif name.endswith("bn.weight"):
        numbers = rounded((0.75 + 0.5 * shares(name, count)) * (0.3 if LAST_OF_BOTTLENECK.search(name) else 1))
    elif name.endswith("bn.bias"):
        numbers = rounded(0.2 * signed(name, count))
    elif name.endswith("running_mean"):
        numbers = rounded(0.15 * signed(name, count))
    else:
        assert name.endswith("running_var")
        numbers = rounded(0.5 + shares(name, count))
    return torch.from_numpy(np.asarray(numbers)).reshape(value.shape).to(value.dtype)


def pictures(shape, dtype=torch.float64):
    name = f"input_{shape[2]}x{shape[3]}"
    return torch.from_numpy(rounded(shares(name, int(np.prod(shape))))).reshape(shape).to(dtype)


def case_of(name):
    """``n_nc3_64x64`` as size, classes and what follows."""
    size, classes, *rest = name.split("_")
    return size, int(classes.removeprefix("nc")), *rest


def trained(name):
    return "train_mode_float64" in recorded()["forward"][name]


def weights(module):
    return sum(parameter.numel() for parameter in module.parameters())


def seen_by_layers(network, images):
    """What each numbered layer answers; those without weights by what the next one is given."""
    seen = {}

    def keep(number):
        def hook(module, inputs, answer):
            # The next layer may work in place on nothing but its own answers.
            seen[number] = answer
            if number - 1 in (12, 16, 19, 22):
                (seen[number - 1],) = inputs

        return hook

    handles = [
        layer.register_forward_hook(keep(int(name))) for name, layer in network.model.items() if not name.endswith("24")
    ]
    with torch.no_grad():
        maps = network(images)
    for handle in handles:
        handle.remove()
    for doubled, source in ((11, 10), (15, 14)):
        seen[doubled] = seen[doubled + 1][:, : seen[source].shape[1]]
    return seen, maps


@pytest.mark.parametrize("letter", list(NAMES))
def test_every_size_has_as_many_weights_as_the_reference(letter):
    with torch.device("meta"):
        many, few = Network(SIZES[NAMES[letter]], 80), Network(SIZES[NAMES[letter]], 3)
    column = list(NAMES).index(letter)
    assert {int(name): weights(layer) for name, layer in many.model.items()} == {
        layer: counts[column] for layer, counts in BY_LAYER.items()
    }
    blocks = sum(isinstance(part, NormedConvolution) for part in many.modules())
    tensors = len(many.state_dict())
    whole = weights(many), weights(few)
    fold_norms(many.eval())
    assert (*whole, weights(many), tensors, len(many.state_dict()), blocks) == WHOLE[letter]


@pytest.mark.parametrize("name", list(recorded()["counts"]))
def test_counts_are_the_recorded_ones(name):
    entry = recorded()["counts"][name]
    letter, classes = case_of(name)
    with torch.device("meta"):
        network = Network(SIZES[NAMES[letter]], classes)
    assert weights(network) == entry["params"]
    assert len(list(network.parameters())) == entry["params_trainable_tensors"]
    assert len(network.state_dict()) == entry["state_dict_tensors"]
    assert sum(isinstance(part, NormedConvolution) for part in network.modules()) == entry["conv_blocks"]
    layers = dict(network.model.items())
    for layer in entry["per_layer"]:
        number = str(layer["i"])
        assert (weights(layers[number]) if number in layers else 0) == layer["params"]
    assert list(network.head.strides) == entry["stride"]
    if "params_fused" in entry:
        fold_norms(network.eval())
        assert weights(network) == entry["params_fused"]
        assert len(network.state_dict()) == entry["state_dict_tensors_fused"]


@pytest.mark.parametrize("name", list(recorded()["state_dict"]))
def test_names_and_shapes_of_tensors_are_the_recorded_ones(name):
    letter, classes, *rest = case_of(name)
    with torch.device("meta"):
        network = Network(SIZES[NAMES[letter]], classes)
    if rest == ["fused"]:
        fold_norms(network.eval())
    own = [(key, list(value.shape)) for key, value in network.state_dict().items()]
    entry = [(key, shape) for key, shape, *_ in recorded()["state_dict"][name]]
    # Those that depend on the number of classes come last, and are recorded alone for another number.
    assert (own[-len(entry) :] if rest == ["differs"] else own) == entry


@pytest.mark.parametrize("name", list(recorded()["forward"]))
def test_every_layer_and_the_decoded_boxes_are_the_recorded_ones(name):
    entry = recorded()["forward"][name]
    letter, classes, *_ = case_of(name)
    network = network_of(letter, classes)
    images = pictures(entry["input"]["shape"])
    assert_recorded(images, entry["input"])
    seen, maps = seen_by_layers(network, images)
    for number, layer in entry["float64"].get("layers", {}).items():
        assert_recorded(seen[int(number)], layer)
    for own, level in zip(maps, entry["float64"]["raw"], strict=True):
        assert_recorded(own, level)
    decoded = network.head.decode(maps)
    assert_recorded(decoded, entry["float64"]["decoded"])
    for row, values in entry["float64"].get("decoded_rows", {}).items():
        np.testing.assert_allclose(decoded[0, int(row)], values, rtol=1e-9, atol=1e-9)
    for cell, values in entry["float64"].get("raw_cells", {}).items():
        level, *place = (int(part[1:]) for part in cell.split("_"))
        np.testing.assert_allclose(maps[level][tuple(place)], values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(recorded()["forward"]))
def test_the_network_in_32_bits_is_as_near_as_the_reference(name):
    entry = recorded()["forward"][name]
    letter, classes, *_ = case_of(name)
    network = network_of(letter, classes, torch.float32)
    with torch.no_grad():
        maps = network(pictures(entry["input"]["shape"], torch.float32))
    for own, level in zip(maps, entry["float64"]["raw"], strict=True):
        assert_recorded(own, level, absolute=2e-5, relative=2e-5)
    assert_recorded(network.head.decode(maps), entry["float64"]["decoded"], absolute=3e-3, relative=2e-5)


@pytest.mark.parametrize("name", list(recorded()["forward"]))
def test_folded_norms_change_no_answer(name):
    entry = recorded()["forward"][name]
    letter, classes, *_ = case_of(name)
    network = network_of(letter, classes)
    images = pictures(entry["input"]["shape"])
    with torch.no_grad():
        before = network(images)
        fold_norms(network)
        after = network(images)
    network.requires_grad_(False)
    if "fused_layer0" in entry:
        assert_recorded(network.model["0"].conv.weight, entry["fused_layer0"]["weight"])
        assert_recorded(network.model["0"].conv.bias, entry["fused_layer0"]["bias"])
    for left, right in zip(before, after, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(network.head.decode(before), network.head.decode(after), rtol=1e-12, atol=5e-12)


@pytest.mark.parametrize(
    "name", [name for name, entry in recorded()["forward"].items() if "train_mode_float64" in entry]
)
def test_norms_learn_from_a_batch_as_recorded(name):
    entry = recorded()["forward"][name]["train_mode_float64"]
    letter, classes, *_ = case_of(name)
    network = network_of(letter, classes).train()
    with torch.no_grad():
        maps = network(pictures(recorded()["forward"][name]["input"]["shape"]))
    for own, level in zip(maps, entry["raw"], strict=True):
        assert_recorded(own, level)
    first, last = network.model["0"].bn, network.model["23"].cv3.bn
    np.testing.assert_allclose(first.running_mean[:6], entry["bn0_running_mean"], rtol=1e-9)
    np.testing.assert_allclose(first.running_var[:6], entry["bn0_running_var"], rtol=1e-9)
    np.testing.assert_allclose(last.running_var[:6], entry["bn23_running_var"], rtol=1e-9)
    assert int(first.num_batches_tracked) == entry["num_batches_tracked"]


def test_answers_of_the_head_are_decoded_as_recorded():
    entry = recorded()["decode_synthetic"]
    classes = entry["nc"]
    head = Head([8, 8, 8], classes, strides=STRIDES, anchors=[sum(level, ()) for level in ANCHORS]).double()
    maps = []
    for level, (rows, columns) in enumerate(entry["grids"]):
        shape = (entry["batch"], 3 * (5 + classes), rows, columns)
        answers = 4 * signed(f"rawmap{level}", int(np.prod(shape))).reshape(shape)
        maps.append(head.split(torch.from_numpy(answers)))
        assert_recorded(maps[-1], entry["raw"][level])
    decoded = head.decode(maps)
    assert_recorded(decoded, entry["decoded"])
    for row, values in entry["rows"].items():
        np.testing.assert_allclose(decoded[0, int(row)], values, rtol=1e-9, atol=1e-9)


def test_an_untrained_head_expects_few_objects():
    for stride, offset in recorded()["bias_init"]["obj"].items():
        assert objectness_offset(int(stride)) == pytest.approx(offset, rel=1e-12)
    for classes, offset in recorded()["bias_init"]["cls"].items():
        assert class_offset(int(classes)) == pytest.approx(offset, rel=1e-12)
    torch.manual_seed(0)
    head = Head([16, 16, 16], 3, strides=STRIDES, anchors=[sum(level, ()) for level in ANCHORS])
    for level, stride in zip(head.m, STRIDES, strict=True):
        by_anchor = level.bias.detach().view(3, 8) - 0.0
        by_anchor[:, 4] -= objectness_offset(stride)
        by_anchor[:, 5:] -= class_offset(3)
        assert by_anchor.abs().max() <= 1 / np.sqrt(16) + 1e-6
        assert by_anchor.std() > 0.05
