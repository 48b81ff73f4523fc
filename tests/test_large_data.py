"""Many labelled images on a small machine: packed, shared by processes that read, and drawn in constant time."""

import gc
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from lightning_automl_vision.data import packed as packed_module
from lightning_automl_vision.data.batching import class_targets
from lightning_automl_vision.data.headers import ImageHeader
from lightning_automl_vision.data.labelled import part_of, read_labelled
from lightning_automl_vision.data.module import make_loader
from lightning_automl_vision.data.objects import Listed
from lightning_automl_vision.data.packed import PackedHeaders, Packing, classes_seen, labels_of
from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.samples import Boxes, Labels, Masks, Sample
from lightning_automl_vision.settings import DataConfig

NAMES = ["a.jpg", "ü/é.png", "https://host/a.jpg?x=1", "", "lone \ud800.png", "z" * 300]
on_linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells what is shared")


def labels(random, count):
    return Labels(labels=random.integers(0, 9, count))


def boxes(random, count):
    return Boxes(
        labels=random.integers(0, 9, count),
        boxes=random.random((count, 4)),
        crowd=random.integers(0, 2, count).astype(bool),
    )


def masks(random, count):
    plain = boxes(random, count)
    polygons = tuple(
        tuple(random.random((random.integers(3, 9), 2)) for _ in range(random.integers(1, 4))) for _ in range(count)
    )
    return Masks(labels=plain.labels, boxes=plain.boxes, crowd=plain.crowd, polygons=polygons)


def drawn(make, count=6):
    random = np.random.default_rng(1)
    groups = ["one", None, "two", "one", None, "three"]
    return [
        Sample(image=NAMES[i], target=make(random, [2, 0, 3, 1, 0, 4][i]), line=i * 7, group=groups[i])
        for i in range(count)
    ]


def packed(samples):
    packing = Packing()
    for sample in samples:
        packing.add(sample.image, sample.target, line=sample.line, group=sample.group)
    return packing.samples()


def plain(value):
    """As built-in values, which can be compared."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.tolist())
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {"kind": type(value), **{name: plain(getattr(value, name)) for name in value.__dataclass_fields__}}
    return value


@pytest.mark.parametrize("make", [labels, boxes, masks])
def test_samples_come_out_as_they_went_in(make):
    samples = drawn(make)
    found = packed(samples)
    assert len(found) == len(samples)
    assert [plain(sample) for sample in found] == [plain(sample) for sample in samples]
    assert plain(found[-1]) == plain(samples[-1])
    assert plain(found[np.int64(2)]) == plain(samples[2])
    assert [sample.image for sample in found[1:3]] == NAMES[1:3]
    with pytest.raises(IndexError):
        found[6]


@pytest.mark.parametrize("make", [labels, boxes, masks])
def test_some_of_them_are_chosen_and_packed_anew(make):
    samples = drawn(make)
    found = packed(samples)
    chosen = found.chosen([4, 0, 5]).chosen([2, 1])
    assert [plain(sample) for sample in chosen] == [plain(samples[5]), plain(samples[0])]
    assert [each.tolist() for each in labels_of(chosen)] == [samples[i].target.labels.tolist() for i in (5, 0)]
    kept = found.compacted([0, 2, 5])
    assert [plain(sample) for sample in kept] == [plain(samples[i]) for i in (0, 2, 5)]
    assert len(kept.labels.values) == 9
    nothing = found.compacted([])
    assert list(nothing) == []


def test_sets_of_labels_are_sorted_within_their_image():
    found = packed([Sample(image=str(i), target=Labels(labels=np.array(each))) for i, each in enumerate([[3, 1], [2]])])
    found.sort_labels()
    assert [sample.target.labels.tolist() for sample in found] == [[1, 3], [2]]


def test_the_classes_of_each_image_are_found_in_parts_of_the_set(monkeypatch):
    monkeypatch.setattr(packed_module, "_PART", 7)
    random = np.random.default_rng(2)
    each = [random.integers(0, 5, random.integers(0, 4)) for _ in range(40)]
    samples = packed([Sample(image=str(number), target=Labels(labels=labels)) for number, labels in enumerate(each)])
    chosen = random.permutation(40)[:30]
    for labels, expected in (
        (labels_of(samples), each),
        (labels_of(samples.chosen(chosen)), [each[index] for index in chosen]),
        (each, each),
    ):
        found = [pair for images, classes in classes_seen(labels) for pair in zip(images, classes, strict=True)]
        assert found == [(image, name) for image, names in enumerate(expected) for name in sorted({*names.tolist()})]


def test_boxes_in_lists_are_packed_as_boxes_in_arrays():
    made = [boxes(np.random.default_rng(number), number % 3) for number in range(6)]
    packing = Packing()
    for number, target in enumerate(made):
        listed = Listed(target.labels.tolist(), target.boxes.ravel().tolist(), target.crowd.tobytes())
        packing.add(str(number), listed if number % 2 else target)
    assert [plain(sample.target) for sample in packing.samples()] == [plain(target) for target in made]


def test_headers_are_packed_too():
    headers = PackedHeaders.of([ImageHeader(3, 4), ImageHeader(50_000, 6)])
    assert list(headers) == [ImageHeader(3, 4), ImageHeader(50_000, 6)]
    assert list(headers.chosen([1])) == [ImageHeader(50_000, 6)]
    assert headers[-1] == headers[1]


def write_lines(path, count, objects=0):
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            label = [box(draw) for _ in range(objects)] if objects else f"class_{draw.randrange(20)}"
            file.write(json.dumps({"image_url": f"images/{number:08}.png", "label": label}) + "\n")
    return path


def box(draw):
    left, top = draw.uniform(0, 0.8), draw.uniform(0, 0.8)
    return {
        "label": f"class_{draw.randrange(20)}",
        "topX": left,
        "topY": top,
        "bottomX": left + 0.1,
        "bottomY": top + 0.1,
    }


def test_parts_of_a_set_share_its_memory(tmp_path):
    images = read_labelled(
        str(write_lines(tmp_path / "a.jsonl", 50)), "image_classification", DataConfig(), probe=False
    )
    part = part_of(images, [7, 3])
    assert part.samples.names.values is images.samples.names.values
    assert [part.name(0), part.name(1)] == ["images/00000007.png", "images/00000003.png"]


@on_linux
def test_a_forked_process_copies_nothing_of_what_it_looks_at(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", 20_000, objects=2)
    images = read_labelled(str(path), "image_object_detection", DataConfig(), probe=False)
    assert written_by_looking_at(images.samples) < 1_500
    assert written_by_looking_at(list(images.samples)) > 6_000, "else this measures nothing"


def written_by_looking_at(samples):
    """Kilobytes that a child process comes to own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        gc.freeze()
        found = 0
        look = range(len(samples))
        before = rollup("self", "Private_Dirty")
        for _ in range(3):
            for index in look:
                found += len(samples[index].target.labels)
        os.write(writer, str(rollup("self", "Private_Dirty") - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    return answer


def rollup(process, name):
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(name)


def test_drawing_takes_no_longer_from_more_images():
    one = Sample(image="a.png", target=labels(np.random.default_rng(0), 3))
    few, many = packed([one] * 100), packed([one] * 50_000)

    def seconds(samples):
        places = np.random.default_rng(0).integers(len(samples), size=2000).tolist()
        started = time.process_time()
        for place in places:
            samples[place]
        return time.process_time() - started

    assert min(seconds(many) for _ in range(5)) < 5 * min(seconds(few) for _ in range(5))


OPENED = """
import sys, time
from pathlib import Path
from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.settings import DataConfig
started = time.process_time()
images = read_labelled(sys.argv[1], sys.argv[2], DataConfig(), probe=False)
seconds = time.process_time() - started
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(len(images), seconds, int(peak.split()[1]) / 1000)
"""


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(("objects", "task"), [(0, "image_classification"), (3, "image_object_detection")])
def test_a_hundred_thousand_lines_are_opened_in_seconds_and_little_memory(objects, task, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", 100_000, objects)
    process = subprocess.run(
        [sys.executable, "-c", OPENED, str(path), task], capture_output=True, text=True, check=True
    )
    count, seconds, megabytes = map(float, process.stdout.split())
    assert count == 100_000
    assert seconds < 15  # 5 times what it takes
    assert megabytes < 300


@on_linux
@pytest.mark.slow
def test_processes_that_read_do_not_grow_over_three_epochs(tmp_path):
    count = 100_000
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((8, 8, 3), np.uint8))
    for number in range(count):
        os.symlink("../picture.png", tmp_path / "images" / f"{number:08}.png")
    path = write_lines(tmp_path / "a.jsonl", count)
    images = read_labelled(str(path), "image_classification", DataConfig(cache=str(tmp_path / "cache")))
    transform = CenterCrop(resize=8, size=8)
    options = {"transform": transform, "batch_size": 500, "seed": 0, "workers": 2, "start_method": "fork"}
    loader = make_loader(images.samples, num_classes=20, truth=class_targets, shuffle=True, **options)
    held = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        assert sum(len(batch) for batch in loader) == count
        processes = [worker.pid for worker in loader._iterator._workers]
        held.append([rollup(process, "Private_Dirty") for process in processes])
    grown = [last - first for first, last in zip(held[0], held[-1], strict=True)]
    assert max(grown) < 4_000, held


def test_this_process_stays_small(tmp_path):
    """Of 20,000 lines with ten objects each, 45 MB as objects of their own, no more is kept than their numbers."""
    images = read_labelled(
        str(write_lines(tmp_path / "a.jsonl", 20_000, objects=10)), "image_object_detection", DataConfig(), probe=False
    )
    samples = images.samples
    held = (samples.names.values, samples.names.ends, samples.lines, samples.groups, samples.labels.values)
    held += (samples.labels.ends, samples.objects.boxes, samples.objects.crowd)
    assert sum(values.nbytes for values in held) < 12e6
