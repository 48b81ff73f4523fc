"""COCO's twelve numbers and VOC's average precision: CPU seconds and memory, beside the usual evaluators.

python benchmarks/object_metrics.py [--rounds 3] [--masks]

Each case runs in a process of its own, the cases in turn, with one thread. It starts from the arrays of each image and
ends with all numbers; where an evaluator asks for other objects, making them belongs to the case. Memory is the peak
over what the process held before the case, data and imports included. Evaluators that are not installed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from lightning_automl_vision.masks import Crop, Mask, encode
from lightning_automl_vision.metrics.average_precision import coco, voc
from lightning_automl_vision.metrics.object_curves import confusion_matrix, image_counts, object_curves
from lightning_automl_vision.metrics.objects import FoundObjects, TrueObjects
from lightning_automl_vision.samples import Boxes, ScoredBoxes

IMAGES, TRUTHS, FOUND, CLASSES, SIDE = 1000, 30, 100, 10, 640
Truth, Answers = list[Boxes], list[ScoredBoxes]
Masks = list[list[Mask]] | None


def generate(images: int) -> tuple[Truth, Answers]:
    """True boxes anywhere, and around each about three found ones, some hardly moved; 15 of 100 have any class."""
    random = np.random.default_rng(0)
    truth, answers = [], []
    for _ in range(images):
        corners = random.random((TRUTHS, 2)) * SIDE * 0.8
        sides = random.random((TRUTHS, 2)) * SIDE * 0.15 + 6
        boxes = np.hstack([corners, np.minimum(corners + sides, SIDE - 1)]).astype(np.float32)
        labels = random.integers(0, CLASSES, TRUTHS)
        near = random.integers(0, TRUTHS, FOUND)
        moved = boxes[near] + random.normal(size=(FOUND, 4)) * random.random((FOUND, 1)) * 12
        moved = moved.clip(0, SIDE - 1)
        moved[:, :2] = np.minimum(moved[:, :2], moved[:, 2:] - 2).clip(0)
        guesses = np.where(random.random(FOUND) < 0.85, labels[near], random.integers(0, CLASSES, FOUND))
        scores = np.sort(random.random(FOUND).astype(np.float32))[::-1]
        crowd = np.zeros(TRUTHS, np.bool_)
        truth.append(Boxes(labels=labels, boxes=boxes.astype(np.float64), crowd=crowd))
        found = moved.astype(np.float32).astype(np.float64)
        answers.append(ScoredBoxes(labels=guesses, boxes=found, scores=scores, width=SIDE, height=SIDE))
    return truth, answers


def ellipses(boxes: np.ndarray) -> list[Mask]:
    """The largest ellipse in each box."""
    masks = []
    for left, top, right, bottom in boxes.round().astype(int).tolist():
        rows, columns = np.ogrid[-1 : 1 : (max(bottom - top, 1) * 1j), -1 : 1 : (max(right - left, 1) * 1j)]
        masks.append(encode(Crop(left=left, top=top, pixels=rows**2 + columns**2 <= 1), SIDE, SIDE))
    return masks


def ours_coco(truth: Truth, answers: Answers, masks: tuple[Masks, Masks]) -> tuple[float, float]:
    numbers = coco(TrueObjects.of(truth, masks[0]), FoundObjects.of(answers, masks[1]), CLASSES)
    return numbers.ap, numbers.ap_50


def ours_voc(truth: Truth, answers: Answers, masks: tuple[Masks, Masks]) -> tuple[float, float]:
    figures = voc(TrueObjects.of(truth, masks[0]), FoundObjects.of(answers, masks[1]), CLASSES, iou_threshold=0.5)
    return float("nan"), figures.mean_average_precision


def ours_details(truth: Truth, answers: Answers, masks: tuple[Masks, Masks]) -> tuple[float, float]:
    """Curves, confusion matrix and the counts of each image."""
    objects = TrueObjects.of(truth, masks[0]), FoundObjects.of(answers, masks[1])
    for curve in object_curves(*objects, CLASSES, iou_threshold=0.5):
        curve.as_dict()
    confusion_matrix(*objects, CLASSES, iou_threshold=0.5, score_threshold=0.3)
    image_counts(*objects, iou_threshold=0.5)
    return float("nan"), float("nan")


def torchmetrics(truth: Truth, answers: Answers, masks: tuple[Masks, Masks]) -> tuple[float, float]:
    """Batches of eight tensors, as a validation loop has them, and no figures of single classes; masks at full size."""
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    def shape(index: int, boxes: np.ndarray, of_masks: Masks) -> dict[str, torch.Tensor]:
        if of_masks is None:
            return {"boxes": torch.from_numpy(boxes)}
        return {"masks": torch.from_numpy(np.stack([mask.pixels for mask in of_masks[index]]))}

    metric = MeanAveragePrecision(iou_type="bbox" if masks[0] is None else "segm", backend="pycocotools")
    for begin in range(0, len(truth), 8):
        batch = range(begin, min(begin + 8, len(truth)))
        metric.update(
            [
                {
                    **shape(index, answers[index].boxes, masks[1]),
                    "scores": torch.from_numpy(answers[index].scores.copy()),
                    "labels": torch.from_numpy(answers[index].labels),
                }
                for index in batch
            ],
            [
                {**shape(index, truth[index].boxes, masks[0]), "labels": torch.from_numpy(truth[index].labels)}
                for index in batch
            ],
        )
    values = metric.compute()
    return float(values["map"]), float(values["map_50"])


def documents(truth: Truth, answers: Answers, masks: tuple[Masks, Masks]) -> tuple[dict, list[dict]]:
    """What COCO's own interface takes."""
    annotations, results = [], []
    for image, target in enumerate(truth):
        sides = np.hstack([target.boxes[:, :2], target.boxes[:, 2:] - target.boxes[:, :2]]).tolist()
        for index, (box, label) in enumerate(zip(sides, target.labels.tolist(), strict=True)):
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": label + 1, "iscrowd": 0}
            entry |= {"bbox": box, "area": box[2] * box[3]}
            if masks[0] is not None:
                entry |= {"segmentation": masks[0][image][index].as_coco(), "area": masks[0][image][index].area}
            annotations.append(entry)
    for image, answer in enumerate(answers):
        sides = np.hstack([answer.boxes[:, :2], answer.boxes[:, 2:] - answer.boxes[:, :2]]).tolist()
        fields = zip(sides, answer.labels.tolist(), answer.scores.tolist(), strict=True)
        for index, (box, label, score) in enumerate(fields):
            shape = {"bbox": box} if masks[1] is None else {"segmentation": masks[1][image][index].as_coco()}
            results.append({"image_id": image + 1, "category_id": label + 1, "score": score, **shape})
    images = [{"id": image + 1, "width": SIDE, "height": SIDE} for image in range(len(truth))]
    categories = [{"id": label + 1, "name": str(label)} for label in range(CLASSES)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def faster_coco_eval(truth: Truth, answers: Answers, masks: tuple[Masks, Masks]) -> tuple[float, float]:
    from faster_coco_eval import COCO, COCOeval_faster

    document, results = documents(truth, answers, masks)
    return evaluated(COCO(document), results, COCOeval_faster, masks)


def hotcoco(truth: Truth, answers: Answers, masks: tuple[Masks, Masks]) -> tuple[float, float]:
    from hotcoco import COCO, COCOeval

    document, results = documents(truth, answers, masks)
    return evaluated(COCO(document), results, COCOeval, masks)


def evaluated(truth, results: list[dict], evaluator: Callable, masks: tuple[Masks, Masks]) -> tuple[float, float]:
    evaluation = evaluator(truth, truth.loadRes(results), "bbox" if masks[0] is None else "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


CASES = {
    "ours, coco": (ours_coco, ()),
    "ours, voc": (ours_voc, ()),
    "ours, curves and confusion matrix": (ours_details, ()),
    "torchmetrics (pycocotools)": (torchmetrics, ("torchmetrics.detection", "pycocotools.cocoeval")),
    "faster-coco-eval": (faster_coco_eval, ("faster_coco_eval",)),
    "hotcoco": (hotcoco, ("hotcoco",)),
}


def measure(name: str, images: int, with_masks: bool) -> dict[str, float]:
    evaluate, needed = CASES[name]
    for module in needed:
        importlib.import_module(module)
    truth, answers = generate(images)
    masks: tuple[Masks, Masks] = (None, None)
    if with_masks:
        masks = [ellipses(target.boxes) for target in truth], [ellipses(answer.boxes) for answer in answers]
    before, began = peak(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        average, average_50 = evaluate(truth, answers, masks)
    seconds = time.process_time() - began
    return {"seconds": seconds, "megabytes": peak() - before, "ap": average, "ap_50": average_50}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def installed(name: str) -> bool:
    return all(importlib.util.find_spec(module.split(".")[0]) for module in CASES[name][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--masks", action="store_true", help="compare masks, ellipses within the boxes")
    parser.add_argument("--case", choices=CASES, help="measure one case here")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.images, arguments.masks)))
        return
    names = [name for name in CASES if installed(name)]
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    options = ["--images", str(arguments.images), *(["--masks"] if arguments.masks else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    for _ in range(arguments.rounds):
        for name in names:
            command = [sys.executable, __file__, "--case", name, *options]
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            figures[name].append(json.loads(answer.stdout.splitlines()[-1]))
    report(figures)


def report(figures: dict[str, list[dict[str, float]]]) -> None:
    """Medians, and how the seconds compare with those of our own COCO numbers."""
    medians = {
        name: {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]}
        for name, rounds in figures.items()
    }
    print(f"{'case':36} {'CPU s':>7} {'ratio':>6} {'MB':>6} {'AP':>8} {'AP50':>8}")
    for name, row in medians.items():
        ratio = row["seconds"] / medians["ours, coco"]["seconds"]
        columns = f"{row['seconds']:7.3f} {ratio:6.2f} {row['megabytes']:6.0f} {row['ap']:8.5f} {row['ap_50']:8.5f}"
        print(f"{name:36} {columns}")


if __name__ == "__main__":
    main()
