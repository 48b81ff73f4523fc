"""From samples to batches of uint8 tensors, read by worker processes that live as long as the training."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lightning_automl_vision.data.batching import Truth
from lightning_automl_vision.data.images import part_of, read_image
from lightning_automl_vision.data.photos import Photos
from lightning_automl_vision.data.prepared import Composing, Evaluated, Labelled, Prepared, Seed, Transform
from lightning_automl_vision.data.replacing import Judged, none_left, other_draws, read_or_gray, tell
from lightning_automl_vision.data.resizing import Resizing
from lightning_automl_vision.data.sampling import Draw, EpochSampler, groups_by_rarest_label
from lightning_automl_vision.data.shares import ALL, Share
from lightning_automl_vision.data.stream_cache import source, use
from lightning_automl_vision.data.tiled import Windows, image_at
from lightning_automl_vision.data.window_sampling import Cut, WindowSampler, readers_for
from lightning_automl_vision.errors import DataError, VisionError
from lightning_automl_vision.geometry import Window
from lightning_automl_vision.models import Batch
from lightning_automl_vision.process import usable_cores
from lightning_automl_vision.samples import IntArray, Labels, Pixels, Sample
from lightning_automl_vision.settings import DataConfig

_MOST_WORKERS = 8
# Starting processes takes about as long as reading this many images once does.
_FEW_IMAGES = 256


@dataclass(frozen=True)
class Item:
    """One prepared picture, which image of the set it shows, and what part of it where that is not all."""

    picture: Prepared
    key: str
    index: int
    window: Window | None = None
    missed: str = ""


class ImageDataset(Dataset[Item | VisionError]):
    """Reads and transforms what is drawn; an error is given, not raised, for it to leave a worker in one piece.

    With ``windows`` samples are those, of images that are kept in ``memory`` bytes while their windows are drawn. With
    ``replaces`` something else is given for a picture that cannot be read, and why.
    """

    def __init__(
        self,
        samples: Sequence[Sample[Labels]],
        transform: Transform,
        *,
        seed: int,
        maximum_pixels: int,
        windows: Windows | None = None,
        memory: int = 0,
        replaces: bool = False,
    ) -> None:
        self.source = source()
        self._replaces = replaces
        self._samples = samples
        self._transform = transform
        self._seed = seed
        self._maximum_pixels = maximum_pixels
        self._windows = windows
        self._photos = Photos(memory, maximum_pixels=maximum_pixels)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Item | VisionError]:
        """Those of a batch; meanwhile the pictures of the next one that come from elsewhere are fetched."""
        if self.source.cache is not None:
            now = (index for draw in draws for index in (draw.image, *self.partners(draw)))
            indices = (*now, *(draw.later for draw in draws if draw.later is not None))
            for image in dict.fromkeys(image_at(self._samples, index) for index in indices):
                if image not in self._photos:
                    self.source.ask_for(image)
        return [self[draw] for draw in draws]

    def __getitem__(self, draw: Draw) -> Item | VisionError:
        item = self._read(draw)
        if not self._replaces or not isinstance(item, DataError):
            return item
        last = item
        for other in other_draws(draw, len(self), (self._seed, *draw.seed)):
            if not isinstance(instead := self._read(other), VisionError):
                return replace(instead, missed=str(item))
            if not isinstance(instead, DataError):
                return instead
            last = instead
        return none_left(last)

    def _read(self, draw: Draw) -> Item | VisionError:
        seed = (self._seed, *draw.seed)
        transform = self._transform
        sample = self._samples[draw.image]
        try:
            if self._replaces and isinstance(transform, Evaluated):
                return self._evaluated(draw, sample, seed)
            labelled = self._labelled(sample)
            if isinstance(transform, Composing):
                others = [self._labelled(self._samples[index]) for index in self.partners(draw)]
                picture = transform(*labelled, seed, others)
            else:
                picture = transform(*labelled, seed)
        except VisionError as error:
            return error.with_traceback(None)
        return self._item(draw, sample, picture)

    def _item(self, draw: Draw, sample: Sample[Labels], picture: Prepared, missed: str = "") -> Item:
        image = draw.image if self._windows is None else self._windows.image_of(draw.image)
        return Item(picture, sample.image, image, sample.window, missed)

    def _evaluated(self, draw: Draw, sample: Sample[Labels], seed: Seed) -> Item:
        """Every image is judged, be it as a gray picture."""
        pixels, missed = read_or_gray(lambda: self._labelled(sample)[0])
        return self._item(draw, sample, self._transform(pixels, sample.target, seed), missed)

    def partners(self, draw: Draw) -> Sequence[int]:
        """The samples that are put together with the one that is drawn."""
        if not isinstance(self._transform, Composing):
            return ()
        chosen = self._transform.partners(len(draw.pool or self._samples), (self._seed, *draw.seed))
        return [draw.pool[index] for index in chosen] if draw.pool else chosen

    def _labelled(self, sample: Sample[Labels]) -> Labelled:
        if sample.window is not None:
            return part_of(self._photos[sample.image], sample.window), sample.target
        short_side = self._transform.short_side
        return read_image(sample.image, maximum_pixels=self._maximum_pixels, short_side=short_side), sample.target


class ImageLoader(DataLoader[Any]):
    """Raises in the main process, as it was, the error that a worker met; ``lost`` says why pictures were replaced."""

    lost: set[str]
    judges: bool

    def begin_at(self, epoch: int, batches: int) -> None:
        """Go on in an epoch after so many batches, of which no picture is read again."""
        sampler: Any = self.sampler
        sampler.begin_at(epoch, batches * (self.batch_size or 1))

    def __len__(self) -> int:
        """One at least: a process without any image must take part in an evaluation all the same."""
        return max(super().__len__(), 1)

    def __iter__(self) -> Iterator[Batch[Any]]:  # type: ignore[override]
        with _single_threaded_opencv():
            batches = super().__iter__()
        judged = Judged(len(self.sampler)) if self.judges else None  # type: ignore[arg-type]  # ours have lengths
        for batch in batches:
            if isinstance(batch, Batch):
                tell(batch.missed, self.lost)
                if judged is not None and (fault := judged.add(len(batch.keys), batch.missed)) is not None:
                    batch = fault
            if isinstance(batch, VisionError):
                break
            yield batch
        else:
            return
        # Workers end now, and no name here holds the error: from a cycle through its traceback they would be collected
        # too late to be told to end, and be waited for.
        self._iterator = None
        del batches
        try:
            raise batch
        finally:
            del batch

    def check_worker_number_rationality(self) -> None:
        """No warning: there are as many workers as were asked for."""


def make_loader(
    samples: Sequence[Sample[Labels]],
    *,
    num_classes: int,
    truth: Truth,
    transform: Transform | Resizing,
    batch_size: int,
    seed: int,
    shuffle: bool = False,
    balanced: bool = False,
    order: IntArray | None = None,
    cut: Cut | None = None,
    workers: int | None = None,
    pin_memory: bool = False,
    maximum_pixels: int = DataConfig.maximum_image_pixels,
    start_method: str | None = None,
    lost: set[str] | None = None,
    share: Share = ALL,
) -> ImageLoader:
    """Batches of all samples, the last one as short as it comes; the same seed gives the same ones.

    Of a shuffled order a last batch of a single picture is left out.

    Args:
        samples: The labelled images.
        num_classes: How many classes there are.
        truth: Makes the targets of a batch from those of its images.
        transform: A training transform, or the resizing of validation.
        batch_size: Images in a batch.
        seed: Decides the order and every transform, together with the epoch given to ``loader.sampler.set_epoch``.
        shuffle: Draw a new order for each epoch.
        balanced: Let every class come up equally often, which implies a random order.
        order: The order of the samples where it is not random; None keeps that of the data.
        cut: The windows to read instead of whole images.
        workers: Processes that read; None decides by cores and images, 0 reads in this process.
        pin_memory: Copy batches to memory that a GPU reads directly.
        maximum_pixels: Larger pictures are refused.
        start_method: How processes are started; None is the platform's way.
        lost: Takes up why pictures could not be read, which are then replaced; None makes that an error.
        share: The part that is read here where several processes train together.
    """
    pictures = samples if cut is None else cut.samples
    processes = number_of_workers(workers, share.length(len(pictures)), usable_cores() // share.local)
    images = EpochSampler(
        len(samples),
        shuffle=shuffle,
        seed=seed,
        groups=groups_by_rarest_label(samples, num_classes) if balanced else None,
        order=order,
        share=share if cut is None else ALL,
        batch_size=batch_size,
    )
    if cut is not None:
        cut = replace(cut, memory=cut.memory // share.local)
        processes = readers_for(processes, len(samples) // share.size)
    streams = source().cache is not None
    sampler = images if cut is None else WindowSampler(cut, images, batch_size, seed, shuffle, share, streams)
    images.ahead = batch_size * max(processes, 1) if streams and cut is None else 0
    loader = ImageLoader(
        ImageDataset(
            pictures,
            Evaluated(transform) if isinstance(transform, Resizing) else transform,
            seed=seed,
            maximum_pixels=maximum_pixels,
            windows=None if cut is None else cut.windows,
            memory=0 if cut is None else cut.memory // max(processes, 1),
            replaces=lost is not None,
        ),
        sampler=sampler,
        batch_size=batch_size,
        # A lone picture left over is not one that batch norms can learn from; the next order leaves another one.
        drop_last=shuffle and len(sampler) > batch_size > 1 and len(sampler) % batch_size == 1,
        collate_fn=partial(collate, truth=truth),
        num_workers=processes,
        persistent_workers=processes > 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method if processes else None,
        generator=torch.Generator().manual_seed(seed),  # else the loader draws from the one that trains
        pin_memory=pin_memory,
    )
    loader.lost = set() if lost is None else lost
    loader.judges = isinstance(transform, Resizing)
    return loader


def number_of_workers(asked: int | None, images: int, cores: int | None = None) -> int:
    """As many as asked; else one for each core that this process may use, 8 at most, and none for few images."""
    if asked is not None:
        return asked
    cores = usable_cores() if cores is None else cores
    return 0 if cores <= 1 or images < _FEW_IMAGES else min(cores, _MOST_WORKERS)


def collate(items: Sequence[Item | VisionError], *, truth: Truth) -> Batch[Any] | VisionError:
    """One batch, or the first error among its images."""
    good: list[Item] = []
    for item in items:
        if isinstance(item, VisionError):
            return item
        good.append(item)
    pictures = [item.picture for item in good]
    images, sizes = padded([picture.pixels for picture in pictures])
    return Batch(
        images=images,
        targets=truth([picture.target for picture in pictures]),
        keys=[item.key for item in good],
        sizes=sizes,
        indices=[item.index for item in good],
        places=[place for picture in pictures if (place := picture.place) is not None],
        dropped=sum(picture.dropped for picture in pictures),
        gains=_gains(pictures),
        windows=[window for item in good if (window := item.window) is not None],
        missed=[item.missed for item in good if item.missed],
    )


def _gains(pictures: Sequence[Prepared]) -> Tensor | None:
    """A factor of one changes nothing: for pictures that are as they shall be."""
    if all(picture.gains is None for picture in pictures):
        return None
    return torch.tensor([picture.gains or (1.0, 1.0, 1.0) for picture in pictures])


def padded(pictures: Sequence[Pixels]) -> tuple[Tensor, Sequence[tuple[int, int]]]:
    """Pictures as one tensor, zeros to the right and below of the smaller ones, and the sizes where they differ."""
    sizes = [(pixels.shape[1], pixels.shape[0]) for pixels in pictures]
    if len({*sizes}) == 1:
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), ()
    width, height = (max(side) for side in zip(*sizes, strict=True))
    images = torch.zeros((len(pictures), 3, height, width), dtype=torch.uint8)
    for image, pixels in zip(images, pictures, strict=True):
        image[:, : pixels.shape[0], : pixels.shape[1]] = torch.from_numpy(pixels).permute(2, 0, 1)
    return images, sizes


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """While processes are forked: one that inherits OpenCV's threads, of which it has none, waits for them forever."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _start_worker(worker: int) -> None:
    """One core a worker; Ctrl-C is the main process' business."""
    gc.freeze()  # looking for garbage would write to, and so copy, every object of the main process
    if (information := get_worker_info()) is not None:
        use(information.dataset.source)  # type: ignore[attr-defined]  # it is ours
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
