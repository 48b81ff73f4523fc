"""The frames of a video as pictures, one after the other; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import cv2
import numpy as np

from lightning_automl_vision.data.files import VIDEO_SUFFIXES
from lightning_automl_vision.data.inputs import Picture, stem_of
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.samples import Pixels

_QUIET = "-8"  # FFmpeg's own lines would stand before ours, which says the same


def is_video(source: str) -> bool:
    return os.path.splitext(source)[1].lower() in VIDEO_SUFFIXES and not os.path.isdir(source)


def check_every(source: str, every: int | None) -> None:
    """ConfigError where there are no frames to leave out."""
    if every is not None and not is_video(source):
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise ConfigError(f"every={every}: input={source} is no video ({known}). Leave every out.")


@dataclass(frozen=True, kw_only=True)
class Video:
    """Every so-manieth frame, the first one first; frames are numbered from 0 as they stand in the file."""

    path: str
    every: int = 1

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def estimate(self) -> int | None:
        """How many frames the file says it has, which need not be so."""
        frames = int(self._opened().get(cv2.CAP_PROP_FRAME_COUNT))
        return -(-frames // self.every) if frames > 0 else None

    def check(self, maximum_pixels: int) -> None:
        """DataError for what cannot be opened, or is too large."""
        video = self._opened()
        width, height = (int(video.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > maximum_pixels:
            raise DataError(
                f"input={self.path}: a frame has {width}x{height} pixels, more than data.maximum_image_pixels="
                f"{maximum_pixels}. Raise that, or make the video smaller."
            )

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """Names without end; ``start`` counts the frames that are asked for."""
        for number in count(start * self.every, self.every):
            name = f"{self.name}#{number:06d}"
            yield Picture(name, self.path, f"{stem_of(self.name)}/{number:06d}")

    def frames(self, start: int = 0) -> Iterator[Pixels | DataError]:
        """As they are displayed, RGB; the error of one that is damaged."""
        video = self._opened()
        for _ in range(start * self.every):
            if not video.grab():
                return
        for number in count(start * self.every):
            if not video.grab():
                return
            if number % self.every:
                continue
            good, pixels = video.retrieve()
            if good and pixels is not None:
                yield np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)
            else:
                yield DataError(f"{self.path}: frame {number} is damaged.")

    def _opened(self) -> cv2.VideoCapture:
        if not os.path.exists(self.path):
            raise DataError(f"input={self.path}: there is no such file or folder.")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _QUIET)
        video = cv2.VideoCapture(self.path)
        if not video.isOpened():
            raise DataError(
                f"input={self.path}: is no video that OpenCV can read. Convert it, for example to MP4 with H.264."
            )
        return video
