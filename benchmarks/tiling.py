"""Slicing a large photo and merging what its tiles answer, beside public libraries: ``python benchmarks/tiling.py``.

Prints CPU milliseconds of one thread, minimum and median, and how often the median of ours goes into it; contestants
alternate within the run, each warmed up by an untimed call. ``sahi`` and ``supervision`` are extras of this benchmark,
never dependencies (``pip install sahi supervision``): what is not installed is left out, and said so.

1. The whole loop with a model that costs nothing: a photo of 12 megapixels in 5x3 tiles, 100 detections in each.
2. NMS of 1600 detections beside torchvision's.
3. Merging by intersection over the smaller area (IOS) beside SAHI's, of 1600 and of 20,000 detections of ten classes,
   at four densities: isolated (objects never meet, each is found twice), spread (they hardly meet), crowded (five to
   six boxes over each pixel, half a box of each class), piled (as crowded, each object found twenty times).

Where definitions agree results must be equal, or this ends with an error; elsewhere it counts how many are.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tile_merging import LAYOUTS, detections
from torchvision.ops import batched_nms

from lightning_automl_vision.geometry import Window
from lightning_automl_vision.merging import Merged, greedy_merging, ios_nms, nms
from lightning_automl_vision.merging.methods import Merge
from lightning_automl_vision.tiling import GridTiler

WIDTH, HEIGHT = 4000, 3000
GRID, OVERLAP = (5, 3), 0.25
THRESHOLD = 0.5
CLASSES = 10
EACH = 100
LIBRARIES = ("torchvision", "sahi", "supervision")
NOTES = """
Where definitions differ
  threshold  boxes go together above it here and in torchvision, at it too in SAHI and in supervision's with_nmm
  ties       equal scores are ordered by the boxes here and in SAHI (not always alike), by arrival in torchvision and
             supervision; no two scores are equal in this benchmark
  classes    boxes meet within a class everywhere here; a merged box has the class and the score of its best one, in
             supervision's with_nmm a mean score
  growth     greedy_merging compares with the box as it has grown, and repeats until nothing merges. SAHI first groups
             boxes, GREEDYNMM by those that the best one overlaps as it was found, NMM by chains of overlaps; then it
             merges a group's boxes that match the grown one, once. So results are the same where objects are apart,
             nearly so where they are spread, and ours are fewer in crowds
  groups     SAHI's functions on rows say which rows belong together and merge no box; its classes take and give
             objects. Wrapping rows into objects is outside the clock in part 3; in part 1 a user of it pays for it
"""


class Answer(NamedTuple):
    """What was found: corners, scores and class indices."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]


Case = Callable[[], Any]
Found = dict[tuple[float, int], NDArray[Any]]
Model = Callable[[NDArray[np.uint8]], Answer]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of 20,000 detections a tenth of them, three at least")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(
        "; ".join(
            f"{name} {version(name)}" if has(name) else f"{name} is not installed: left out" for name in LIBRARIES
        )
    )
    if has("sahi"):
        from sahi.postprocess.backends import resolve_backend

        print(f"SAHI computes with its backend {resolve_backend()}, the one it chooses here")
    slicing(rounds)
    for name in LAYOUTS[1600]:
        suppression(name, rounds)
    for count, layouts in LAYOUTS.items():
        for name in ("isolated", *layouts):
            merging(count, name, rounds if count == 1600 else max(rounds // 10, 3))
    print(NOTES)


def has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


# 1. The whole loop.


def slicing(rounds: int) -> None:
    whole, *tiles = GridTiler(GRID, OVERLAP).windows(WIDTH, HEIGHT)
    photo = marked_photo(tiles)
    model = free_model(answers(tiles), answers([whole])[0])
    cases: dict[str, Case] = {
        "ours, nms": lambda: sliced(photo, tiles, model, Merge(threshold=THRESHOLD)),
        "ours, nms, the whole photo too": lambda: sliced(photo, [whole, *tiles], model, Merge(threshold=THRESHOLD)),
        "ours, greedy_merging": lambda: sliced(
            photo, tiles, model, Merge(method="greedy_merging", threshold=THRESHOLD)
        ),
    }
    if has("sahi"):
        cases |= sahi_slicing(photo, tiles[0], model)
    if has("supervision"):
        cases |= supervision_slicing(photo, tiles[0], model)
    ours = found_in(cases["ours, nms"]())
    print()
    for name in (name for name in ("SAHI NMS", "supervision with_nms") if name in cases):
        say(f"slicing: {name}", found_in(cases[name]()), ours, equal=True)
    grown = {"SAHI GREEDYNMM", "supervision with_nmm"}
    beside = {name: "ours, greedy_merging" if name in grown else "ours, nms" for name in [*cases][3:]}
    compare(
        f"Slicing {WIDTH}x{HEIGHT}, {len(tiles)} tiles, {EACH} detections each, a free model", cases, rounds, beside
    )
    print("  tiles are views of the photo here: what a model does to its input, it does anyway")


def marked_photo(tiles: Sequence[Window]) -> NDArray[np.uint8]:
    """Noise, in which the first pixel of each tile says which one it is."""
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number, tile in enumerate(tiles):
        photo[int(tile.top), int(tile.left)] = number
    return photo


def free_model(of_tiles: Sequence[Answer], of_photo: Answer) -> Model:
    return lambda tile: of_photo if tile.shape[1] == WIDTH else of_tiles[tile[0, 0, 0]]


def answers(windows: Sequence[Window]) -> list[Answer]:
    """For each window some of the objects that it shows, moved by about two pixels and cut at its border."""
    random = np.random.default_rng(1)
    corners = random.random((1200, 2)) * [WIDTH - 90, HEIGHT - 90]
    objects, labels = (
        np.hstack([corners, corners + random.random((1200, 2)) * 60 + 20]),
        random.integers(0, CLASSES, 1200),
    )
    return [answer(window, objects, labels, number) for number, window in enumerate(windows)]


def answer(window: Window, objects: NDArray[Any], labels: NDArray[Any], seed: int) -> Answer:
    random = np.random.default_rng([2, seed, int(window.width)])
    shown = np.minimum(objects[:, 2:], window[2:]) - np.maximum(objects[:, :2], window[:2])
    chosen = random.choice(np.flatnonzero((shown > 12).all(axis=1)), EACH)
    moved = objects[chosen] + np.tile(random.normal(size=(EACH, 2)) * 2, 2) - [*window[:2], *window[:2]]
    boxes = moved.clip(0, [window.width, window.height] * 2).astype(np.float32)
    return Answer(boxes, (random.random(EACH) * 0.7 + 0.3).astype(np.float32), labels[chosen])


def sliced(photo: NDArray[np.uint8], windows: Sequence[Window], model: Model, merge: Merge) -> Merged:
    boxes, scores, labels = [], [], []
    for left, top, right, bottom in windows:
        found = model(photo[int(top) : int(bottom), int(left) : int(right)])
        boxes.append(found.boxes + np.array([left, top, left, top], dtype=np.float32))
        scores.append(found.scores)
        labels.append(found.labels)
    return merge(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels))


def sahi_slicing(photo: NDArray[np.uint8], tile: Window, model: Model) -> dict[str, Case]:
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction

    class Free(DetectionModel):  # type: ignore[misc, unused-ignore]
        def check_dependencies(self, packages: list[str] | None = None) -> None: ...

        def load_model(self) -> None:
            self.model, self.category_mapping = model, {str(label): str(label) for label in range(CLASSES)}

        def perform_inference(self, image: NDArray[np.uint8]) -> None:
            self._original_predictions = model(image)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            shift = shift_amount_list[0] if isinstance(shift_amount_list[0], list) else shift_amount_list
            shape = full_shape_list[0] if isinstance(full_shape_list[0], list) else full_shape_list
            self._object_prediction_list_per_image = [as_objects(self._original_predictions, shift, shape)]

    free = Free(model_path="none", confidence_threshold=0.25, device="cpu")
    settings: dict[str, Any] = {
        "slice_width": int(tile.width),
        "slice_height": int(tile.height),
        "overlap_width_ratio": OVERLAP,
        "overlap_height_ratio": OVERLAP,
        "perform_standard_pred": False,
        "postprocess_match_threshold": THRESHOLD,
        "verbose": 0,
    }

    def case(method: str, metric: str) -> Case:
        return lambda: (
            get_sliced_prediction(
                photo, free, postprocess_type=method, postprocess_match_metric=metric, **settings
            ).object_prediction_list
        )

    return {"SAHI NMS": case("NMS", "IOU"), "SAHI GREEDYNMM": case("GREEDYNMM", "IOS")}


def as_objects(found: Answer, shift: Sequence[int] = (0, 0), shape: Sequence[int] | None = None) -> list[Any]:
    from sahi.prediction import ObjectPrediction

    moved, whole = list(shift), None if shape is None else list(shape)
    return [
        ObjectPrediction(
            bbox=box, category_id=label, category_name=str(label), score=score, shift_amount=moved, full_shape=whole
        )
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    ]


def supervision_slicing(photo: NDArray[np.uint8], tile: Window, model: Model) -> dict[str, Case]:
    import supervision

    def detect(part: NDArray[np.uint8]) -> Any:
        found = model(part)
        return supervision.Detections(xyxy=found.boxes, confidence=found.scores, class_id=found.labels)

    size = int(tile.width), int(tile.height)
    overlap = int(size[0] * OVERLAP), int(size[1] * OVERLAP)

    def case(overlap_filter: Any) -> Case:
        slicer = supervision.InferenceSlicer(
            detect, size, overlap, overlap_filter=overlap_filter, iou_threshold=THRESHOLD, thread_workers=1
        )
        return lambda: slicer(photo)

    filters = supervision.OverlapFilter
    return {
        "supervision with_nms": case(filters.NON_MAX_SUPPRESSION),
        "supervision with_nmm": case(filters.NON_MAX_MERGE),
    }


# 2 and 3. The merge alone.


def found_at(count: int, name: str) -> Answer:
    if name == "isolated":
        return isolated(count)
    boxes, scores, labels = detections(count, *LAYOUTS[count][name], classes=CLASSES)
    return Answer(boxes.clip(0), scores, labels)


def isolated(count: int) -> Answer:
    """Objects of 40 to 80 pixels that never meet, each found twice, moved by less than two pixels."""
    random = np.random.default_rng(0)
    objects = count // 2
    places = np.stack(np.divmod(np.arange(objects), int(objects**0.5)), axis=1) * 100.0
    corners = np.repeat(places, 2, axis=0) + random.random((count, 2)) * 2
    sides, labels = random.random((objects, 2)) * 40 + 40, random.integers(0, CLASSES, objects)
    scores = (random.permutation(count) + 1) / (count + 1)
    boxes = np.hstack([corners, corners + np.repeat(sides, 2, axis=0)])
    return Answer(boxes, scores.astype(np.float32), np.repeat(labels, 2))


def suppression(name: str, rounds: int) -> None:
    found = found_at(1600, name)
    boxes, scores, labels = (torch.from_numpy(part) for part in found)
    if set(batched_nms(boxes, scores.double(), labels, THRESHOLD).tolist()) != {
        source[0] for source in nms(*found, threshold=THRESHOLD).sources
    }:
        raise SystemExit("nms and torchvision do not keep the same boxes")
    single = boxes.float()
    cases: dict[str, Case] = {
        "torchvision batched_nms": lambda: batched_nms(single, scores, labels, THRESHOLD),
        "ours, nms": lambda: nms(*found, threshold=THRESHOLD),
    }
    compare(f"NMS of 1600, {name}; the same boxes stay", cases, rounds, {"torchvision batched_nms": "ours, nms"})


def merging(count: int, name: str, rounds: int) -> None:
    found = found_at(count, name)
    cases: dict[str, Case] = {
        "ours, ios_nms": lambda: ios_nms(*found, threshold=THRESHOLD),
        "ours, greedy_merging": lambda: greedy_merging(*found, threshold=THRESHOLD),
    }
    if not has("sahi"):
        compare(f"IOS merging of {count}, {name}", cases, rounds, {})
        return
    from sahi.postprocess import combine

    objects, table = as_objects(found), np.column_stack(found)
    settings: dict[str, Any] = {"match_metric": "IOS", "match_threshold": THRESHOLD}

    def merged(kind: Callable[..., Callable[[list[Any]], Any]]) -> Case:
        return lambda: kind(class_agnostic=False, **settings)(list(objects))

    cases |= {
        "SAHI NMS, rows": lambda: combine.batched_nms(table, **settings),
        "SAHI NMS": merged(combine.NMSPostprocess),
        "SAHI GREEDYNMM, groups of rows": lambda: combine.batched_greedy_nmm(table, **settings),
        "SAHI GREEDYNMM": merged(combine.GreedyNMMPostprocess),
        "SAHI NMM, groups of rows": lambda: combine.batched_nmm(table, **settings),
        "SAHI NMM": merged(combine.NMMPostprocess),
    }
    beside = {case: "ours, ios_nms" if "NMS" in case else "ours, greedy_merging" for case in [*cases][2:]}
    compare(f"IOS merging of {count}, {name}", cases, rounds, beside)
    suppressed, grown = found_in(cases["ours, ios_nms"]()), found_in(cases["ours, greedy_merging"]())
    say("SAHI NMS", found_in(cases["SAHI NMS"]()), suppressed, equal=True)
    for theirs in ("SAHI GREEDYNMM", "SAHI NMM"):
        say(theirs, found_in(cases[theirs]()), grown, equal=name == "isolated")


def say(name: str, theirs: Found, ours: Found, *, equal: bool) -> None:
    same = in_both(theirs, ours)
    text = f"{name} answers {len(theirs)} boxes; ours {len(ours)}, of which {same} are the same"
    if equal and not len(theirs) == len(ours) == same:
        raise SystemExit(f"{text}; all should be")
    print(f"  {text}")


def found_in(result: Any) -> Found:
    """Boxes by score and class, which no two share here."""
    if isinstance(result, Merged):
        found = Answer(result.boxes, result.scores, result.labels)
    elif isinstance(result, list):
        given = [(*one.bbox.to_xyxy(), one.score.value, one.category.id) for one in result]
        table = np.array(given, dtype=np.float64).reshape(-1, 6)
        found = Answer(table[:, :4], table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))
    else:
        found = Answer(result.xyxy, result.confidence, result.class_id)
    keys = zip(found.scores.tolist(), found.labels.tolist(), strict=True)
    boxes = dict(zip(keys, found.boxes, strict=True))
    if len(boxes) != len(found.scores):
        raise SystemExit("two results have one score and class")
    return boxes


def in_both(one: Found, other: Found) -> int:
    """How many results are the same to a hundredth of a pixel."""
    return sum(bool(np.abs(box - other[key]).max() < 0.01) for key, box in one.items() if key in other)


def compare(title: str, cases: Mapping[str, Case], rounds: int, beside: Mapping[str, str]) -> None:
    """Each make's name begins a case; ``beside`` names the case of ours that one is to be compared with."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            case()
            started = time.process_time()
            case()
            times[name].append((time.process_time() - started) * 1e3)
    middles = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n{title:66}{'min ms':>9}{'median':>9}{'x ours':>9}")
    for name, values in times.items():
        ratio = f"{middles[name] / middles[beside[name]]:9.2f}" if name in beside else ""
        print(f"  {name:64}{min(values):9.2f}{middles[name]:9.2f}{ratio}")


if __name__ == "__main__":
    main()
