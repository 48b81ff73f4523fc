"""Pictures of a batch as the network takes them: in the middle of a rectangle of gray, from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lav_yolov5.letterbox import letterbox

GRAY = 114
STRIDE = 32

Sizes = Sequence[tuple[int, int]]
Rectangle = tuple[int, int]
"""Height and width."""


def rectangle_around(sizes: Sizes) -> Rectangle:
    """The smallest with sides that 32 divides and that holds pictures of these widths and heights."""
    return _whole(max(height for _, height in sizes)), _whole(max(width for width, _ in sizes))


def alike(sizes: Sizes) -> dict[Rectangle, list[int]]:
    """Which pictures need the same rectangle when each has the smallest of its own."""
    groups: dict[Rectangle, list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(rectangle_around([size]), []).append(index)
    return groups


def corner(size: tuple[int, int], rectangle: Rectangle) -> tuple[int, int]:
    """Where the left and the top of a picture of this width and height lie."""
    place = letterbox(size[1], size[0], rectangle, enlarge=False)
    return place.left, place.top


def framed(images: Tensor, sizes: Sizes, rectangle: Rectangle) -> Tensor:
    """What lies at the top left of each image, in the middle of its rectangle, on the images' device."""
    if images.shape[-2:] == rectangle and {*sizes} == {rectangle[::-1]}:
        return images
    frame = images.new_full((len(sizes), 3, *rectangle), GRAY)
    for picture, image, size in zip(frame, images, sizes, strict=True):
        (width, height), (left, top) = size, corner(size, rectangle)
        picture[:, top : top + height, left : left + width] = image[:, :height, :width]
    return frame


def rescaled(pictures: Tensor, image_size: int) -> Tensor:
    """At a size drawn from torch's generator, from half of ``image_size`` to half more."""
    longest = max(pictures.shape[-2:])
    drawn = int(torch.randint(image_size // 2, image_size * 3 // 2 + STRIDE, ()))
    side = max(drawn // STRIDE * STRIDE, STRIDE)
    if side == longest:
        return pictures
    height, width = (_whole(length * side / longest) for length in pictures.shape[-2:])
    return functional.interpolate(pictures, (height, width), mode="bilinear", align_corners=False)


def _whole(side: float) -> int:
    return math.ceil(side / STRIDE) * STRIDE
