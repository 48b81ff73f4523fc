"""Merging the answers of many tiles: ``python benchmarks/tile_merging.py`` prints CPU milliseconds, minimum and median.

Every object is found about twice, moved by some pixels, in an image of as many pixels as the layout says: spread, where
objects hardly meet, crowded, where they overlap each other, and piled, where each is found twenty times. Boxes have ten
classes; ``--classes 1`` puts them all into one. Cases alternate within a run; torchvision gets its boxes as tensors.

``benchmarks/tiling.py`` compares with public slicing libraries.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms

from lightning_automl_vision.merging import StreamingMerge, greedy_merging, ios_nms, nms, soft_nms, weighted_fusion
from lightning_automl_vision.merging.methods import Merge

Case = Callable[[], Sized]
THRESHOLD = 0.5
LAYOUTS = {
    1600: {"spread": (800, 4000, 3000), "crowded": (800, 1000, 750), "piled": (80, 1000, 750)},
    20000: {"spread": (10000, 14000, 10500), "crowded": (10000, 3500, 2600), "piled": (1000, 3500, 2600)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="for 1600 boxes; a quarter of them for 20,000")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--stream", action="store_true", help="400,000 boxes of 677 windows, one window after the other"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stream:
        stream()
        return
    for count, layouts in LAYOUTS.items():
        for name, layout in layouts.items():
            answer = detections(count, *layout, classes=arguments.classes)
            rounds = arguments.rounds if count == 1600 else max(arguments.rounds // 4, 2)
            compare(f"{count} boxes, {name}, {arguments.classes} classes", cases(*answer, many=count > 1600), rounds)


def detections(count: int, objects: int, width: int, height: int, *, classes: int) -> tuple[np.ndarray, ...]:
    """Boxes of 20 to 80 pixels, each found some times, moved by about two pixels."""
    random = np.random.default_rng(0)
    corners, sides = random.random((objects, 2)) * [width - 90, height - 90], random.random((objects, 2)) * 60 + 20
    labels, found = random.integers(0, classes, objects), random.integers(0, objects, count)
    begins = corners[found] + random.normal(size=(count, 2)) * 2
    scores = (random.permutation(count) + 1) / (count + 1)
    return np.hstack([begins, begins + sides[found]]), scores.astype(np.float32), labels[found]


def cases(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, many: bool) -> dict[str, Case]:
    answer: Any = (boxes, scores, labels)
    exact = torch.from_numpy(boxes), torch.from_numpy(scores).double(), torch.from_numpy(labels)
    single = exact[0].float(), exact[1].float(), exact[2]
    ours: dict[str, Case] = {
        "torchvision batched_nms, float32": lambda: batched_nms(*single, THRESHOLD),
        "torchvision batched_nms, float64": lambda: batched_nms(*exact, THRESHOLD),
        "nms": lambda: nms(*answer, threshold=THRESHOLD),
        "ios_nms": lambda: ios_nms(*answer, threshold=THRESHOLD),
        "greedy_merging, ios": lambda: greedy_merging(*answer, threshold=THRESHOLD),
        "greedy_merging, iou": lambda: greedy_merging(*answer, threshold=THRESHOLD, overlap="iou"),
    }
    if not many:
        ours["soft_nms"] = lambda: soft_nms(*answer, threshold=THRESHOLD)
        ours["weighted_fusion"] = lambda: weighted_fusion(*answer, threshold=THRESHOLD)
    same = {source[0] for source in nms(*answer, threshold=THRESHOLD).sources}
    if same != set(batched_nms(*exact, THRESHOLD).tolist()):
        raise SystemExit("nms and torchvision do not keep the same boxes")
    return ours


def compare(title: str, timed: Mapping[str, Case], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in timed}
    counts: dict[str, int] = {}
    for number in range(-1, rounds):
        for name, case in timed.items():
            started = time.thread_time()
            result = case()
            if number >= 0:
                times[name].append((time.thread_time() - started) * 1e3)
            counts[name] = len(result)
    base = statistics.median(times["torchvision batched_nms, float32"])
    print(f"\n{title:40}{'min ms':>9}{'median':>9}{'x torchvision':>15}{'results':>9}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"  {name:38}{min(values):9.2f}{middle:9.2f}{middle / base:15.2f}{counts[name]:9}")


def stream() -> None:
    """An image of 20,024 x 20,024 pixels in 676 tiles of 1024, and the whole of it first; no pixels are needed."""
    step, size, tiles, each = 760, 1024, 26, 591
    windows = [[0, 0, step * (tiles - 1) + size, step * (tiles - 1) + size]]
    windows += [[x, y, x + size, y + size] for y in range(0, step * tiles, step) for x in range(0, step * tiles, step)]
    answers = [in_window(window, each, seed) for seed, window in enumerate(windows)]
    everything: Any = tuple(np.concatenate([answer[part] for answer in answers]) for part in range(3))
    print(f"{len(everything[1])} boxes of {len(windows)} windows")
    print(f"  {'':28}{'CPU s':>12}{'at once':>10}{'most held':>12}{'results':>9}")
    for merge in (Merge(method="nms", threshold=0.5), Merge(method="greedy_merging", threshold=0.5, largest=256)):
        started, waiting, most, count = time.thread_time(), StreamingMerge(windows, merge), 0, 0
        for window, answer in enumerate(answers):
            waiting.add(window, *answer)
            most = max(most, len(waiting.held))
            if merge.method == "nms" or window % tiles == 0:
                count += len(waiting.finished())
        count += len(waiting.close())
        took, started = time.thread_time() - started, time.thread_time()
        if count != len(merge(*everything)):
            raise SystemExit("the stream and the merge of everything differ")
        print(f"  {merge.method:28}{took:12.2f}{time.thread_time() - started:10.2f}{most:12}{count:9}")


def in_window(window: list[int], count: int, seed: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    left, top, right, bottom = window
    corners = random.random((count, 2)) * [right - left - 40, bottom - top - 40] + [left, top]
    boxes = np.hstack([corners, corners + random.random((count, 2)) * 32 + 8])
    return boxes, random.random(count).astype(np.float32), random.integers(0, 10, count)


if __name__ == "__main__":
    main()
