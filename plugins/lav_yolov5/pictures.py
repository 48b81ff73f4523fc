"""Pictures of a batch as the network takes them: in the middle of a rectangle of gray, from 0 to 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lav_yolov5.rectangles import GRAY, STRIDE, Rectangle, Sizes, corner, whole


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
    height, width = (whole(length * side / longest) for length in pictures.shape[-2:])
    return functional.interpolate(pictures, (height, width), mode="bilinear", align_corners=False)
