"""From every cell's guess to the few boxes that are worth an answer."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from lav_yolov5.boxes import corners

Found = tuple[Tensor, Tensor, Tensor]

# Boxes of different classes are moved so far apart, in pixels, that they never meet.
_APART = 7680
# So many times as many candidates as answers are compared at first.
_FIRST = 8


def suppressed(
    rows: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    most: int,
    several_labels: bool = False,
    agnostic: bool = False,
    candidates: int = 30000,
    windows: Tensor | None = None,
) -> list[Found]:
    """Corners, scores and labels of each image, best first, none of which overlaps a better one of its class too much.

    ``rows`` are images x cells x 5 + classes: centre and size in pixels, objectness and the probability of each class.
    A score is the product of the two, and strictly greater than its threshold. With ``several_labels`` a box may
    be found once for each class; ``agnostic`` lets boxes of different classes compete. Where there are ``windows``,
    corners for each image, what lies outside its own suppresses others as usual but is not answered.
    """
    several_labels = several_labels and rows.shape[-1] > 6
    found = []
    for number, image in enumerate(rows):
        kept = image[image[:, 4] > score_threshold]
        kept = kept.to(torch.promote_types(kept.dtype, torch.float32))
        scores = kept[:, 5:] * kept[:, 4:5]
        place, label, score = _scored(scores, score_threshold, several_labels, candidates)
        boxes = corners(kept[place, :4])
        wanted = None if windows is None else _within(boxes, windows[number].to(boxes))
        best = _not_overlapped(boxes, score, label * (0 if agnostic else _APART), iou_threshold, most, wanted)
        found.append((boxes[best], score[best], label[best]))
    return found


def _scored(scores: Tensor, threshold: float, several: bool, candidates: int) -> Found:
    """Cell, class and score of the candidates, best first; equal ones stay in the order of the cells."""
    if several:
        place, label = (scores > threshold).nonzero(as_tuple=True)
        score = scores[place, label]
    else:
        score, label = scores.max(dim=1)
        place = (score > threshold).nonzero()[:, 0]
        score, label = score[place], label[place]
    # Sorting a few of millions takes a tenth of sorting them all.
    chosen = score.topk(candidates, sorted=False).indices.sort().values if len(score) > candidates else slice(None)
    place, label, score = place[chosen], label[chosen], score[chosen]
    score, order = score.sort(descending=True, stable=True)
    return place[order], label[order], score


def _within(boxes: Tensor, window: Tensor) -> Tensor:
    """Whether any of a box is inside the window."""
    shared = torch.minimum(boxes[:, 2:], window[2:]) - torch.maximum(boxes[:, :2], window[:2])
    reaching: Tensor = (shared > 0).all(dim=1)
    return reaching


def _not_overlapped(
    boxes: Tensor, scores: Tensor, shift: Tensor, iou_threshold: float, most: int, wanted: Tensor | None
) -> Tensor:
    """Indices of the first boxes that are left, compared only as far down the list as it takes to find them."""
    moved = boxes + shift[:, None]
    size = _FIRST * most
    while True:
        kept: Tensor = nms(moved[:size], scores[:size], iou_threshold)
        kept = kept if wanted is None else kept[wanted[kept]]
        if len(kept) >= most or size >= len(moved):
            return kept[:most]
        size *= 4
