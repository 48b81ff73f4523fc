"""Labelled images, read and checked."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from lightning_automl_vision.data.classes import ClassIndex, shown_names
from lightning_automl_vision.data.files import folder_of
from lightning_automl_vision.data.headers import ImageHeader, read_headers
from lightning_automl_vision.data.naming import Named, named_rows
from lightning_automl_vision.data.packed import (
    PackedHeaders,
    PackedSamples,
    Packing,
    classes_seen,
    groups_of,
    images_of,
    labels_of,
)
from lightning_automl_vision.data.rows import Faults, Source
from lightning_automl_vision.data.splits import folds, split, units_by_class
from lightning_automl_vision.data.targets import target_of
from lightning_automl_vision.data.urls import without_query
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.log import LOG
from lightning_automl_vision.samples import IntArray, Sample, T
from lightning_automl_vision.settings import DataConfig

# What the product's documents advise for each class.
ADVISED_IMAGES = 10


@dataclass(frozen=True, kw_only=True)
class LabelledImages(Generic[T]):
    """Samples whose labels are indices of ``classes``; ``headers`` are in the order of samples, if they were read.

    ``dropped`` counts what was left out by its reason, ``notes`` what was unusual but understood. ``folder`` is what
    relative image names start from.
    """

    samples: Sequence[Sample[T]]
    classes: tuple[str, ...]
    source: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    headers: Sequence[ImageHeader] = ()
    folder: str = ""

    def name(self, index: int) -> str:
        """What the data call an image, where that is relative; else its path or URL."""
        image = self.samples[index].image
        return image.removeprefix(f"{self.folder.rstrip('/')}/") if self.folder else image

    def __len__(self) -> int:
        return len(self.samples)


def read_labelled(
    path: str,
    task: str,
    config: DataConfig,
    *,
    classes: tuple[str, ...] | None = None,
    role: str = "training",
    probe: bool = True,
) -> LabelledImages[Any]:
    """Every line checked and, with ``probe``, every image's header; labels must be among ``classes`` where given.

    Formats in pixels need the headers in any case.
    """
    faults = Faults(ignore=config.ignore_data_errors)
    source = Source(path=str(path), task=task, config=config, faults=faults, role=role)
    index = ClassIndex(classes)
    with _no_garbage_collection():
        samples, headers = _read(source, index, probe)
        if not samples:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(faults.dropped.items()))
            raise DataError(
                f"{path}: no labelled image is left ({'dropped: ' + reasons if reasons else 'it holds none'}). "
                f"Check the path, and data.format={config.format}."
            )
        final = index.settle([samples.labels.values])
    if task == "image_classification_multilabel":
        samples.sort_labels()
    _log(source)
    return LabelledImages(
        samples=samples,
        classes=final,
        source=str(path),
        dropped=dict(faults.dropped),
        notes=dict(faults.notes),
        headers=headers,
        folder=folder_of(os.path.join(path, "") if os.path.isdir(path) else str(path), config),
    )


def _read(source: Source, index: ClassIndex, probe: bool) -> tuple[PackedSamples[Any], Sequence[ImageHeader]]:
    """Rows in relative coordinates are packed one by one; those in pixels wait for all headers."""
    target = target_of(source.task, index, source.faults)
    packing = Packing()
    waiting: list[Named] = []
    files: list[str] = []
    for named in named_rows(source):
        if named.row.pixels:
            waiting.append(named)
            continue
        value = target(named.row, (1.0, 1.0))
        if value is not None:
            packing.add(named.image, value, line=named.row.line, group=named.group)
            files.append(named.row.file)
    headers: list[ImageHeader] = []
    kept: list[int] = list(range(len(packing)))
    if probe and kept:
        lines = packing.lines
        places = (f"{file}:{line}" if line else file for file, line in zip(files, lines, strict=True))
        kept, headers = _probed(kept, packing.images, places, source)
    rows, sizes = _probed(waiting, [named.image for named in waiting], (n.row.place for n in waiting), source)
    for named, header in zip(rows, sizes, strict=True):
        value = target(named.row, (header.width, header.height)) if _sizes_agree(named, header, source.faults) else None
        if value is not None:
            kept.append(len(packing))
            packing.add(named.image, value, line=named.row.line, group=named.group)
            headers.append(header)
    samples = packing.samples()
    return (
        samples if len(kept) == len(samples) else samples.compacted(kept),
        PackedHeaders.of(headers) if probe else [],
    )


def _probed(
    items: Sequence[Any], images: Sequence[str], places: Iterable[str], source: Source
) -> tuple[list[Any], list[ImageHeader]]:
    """The items whose image is readable, with its header."""
    kept, headers = [], []
    answers = read_headers(images, source.config) if images else []
    for item, image, place, header in zip(items, images, places, answers, strict=True):
        if isinstance(header, ImageHeader):
            kept.append(item)
            headers.append(header)
        else:
            source.faults.drop(
                "unusable image",
                place,
                f"image {without_query(image)}: {header.rstrip('.')}",
                "Replace or remove it, or set data.images where all of them lie elsewhere",
            )
    return kept, headers


def _sizes_agree(named: Named, header: ImageHeader, faults: Faults) -> bool:
    """A label file's claim about the size is never used; labels that are a picture themselves must have it."""
    claimed, size = named.row.size, (header.width, header.height)
    if claimed is None or claimed == size or 0 in claimed:
        return True
    if not named.row.raster:
        faults.note("picture of another size than the label file says, coordinates taken as the picture's pixels")
        return True
    text = f"the mask has {claimed[0]}x{claimed[1]} pixels, its picture {named.image} {size[0]}x{size[1]}"
    faults.drop("mask of another size", named.row.place, text)
    return False


def _log(source: Source) -> None:
    for text, count in sorted(source.faults.notes.items()):
        LOG.warning("%s: %s (%d times).", source.path, text, count)
    if source.faults.dropped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(source.faults.dropped.items()))
        LOG.warning("%s: dropped because of data.ignore_data_errors: %s.", source.path, reasons)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Reading makes millions of objects and no cycles; looking for cycles would take a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, kw_only=True)
class DataSplits(Generic[T]):
    """What a run trains on, validates on and is tested on; ``dropped`` counts over all of them."""

    training: LabelledImages[T]
    validation: LabelledImages[T]
    test: LabelledImages[T] | None
    classes: tuple[str, ...]
    dropped: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class FoldedData(Generic[T]):
    """A training set in parts; each is what one fold is validated on, while it learns from all the others."""

    images: LabelledImages[T]
    parts: Sequence[Sequence[int]]
    test: LabelledImages[T] | None
    dropped: Mapping[str, int]

    def fold(self, number: int) -> DataSplits[T]:
        """Without the test set, which is not any fold's."""
        held = self.parts[number]
        inside = set(held)
        rest = [index for index in range(len(self.images)) if index not in inside]
        return DataSplits(
            training=part_of(self.images, rest),
            validation=part_of(self.images, held),
            test=None,
            classes=self.images.classes,
            dropped=self.dropped,
        )

    def first(self) -> DataSplits[T]:
        """The first fold, and the test set."""
        return replace(self.fold(0), test=self.test)


def load_folds(config: DataConfig, task: str, *, seed: int) -> FoldedData[Any]:
    """The same with ``data.folds`` parts."""
    training, _, test, dropped = _read_all(config, task)
    labels, groups = _labels_and_groups(training, config)
    number = config.folds or 0
    parts = folds(labels, number, seed=seed, groups=groups)
    seen = units_by_class(labels, groups)
    rare = [f"{name} {seen[index]}" for index, name in enumerate(training.classes) if seen[index] < number]
    if rare:
        LOG.warning(
            "%s: fewer %s than data.folds=%d of %s; some folds do not validate on these classes, and one that holds"
            " out the only one trains without.",
            training.source,
            "images" if groups is None else "groups",
            number,
            shown_names(rare),
        )
    return FoldedData(images=training, parts=parts, test=test, dropped=dropped)


def load_data(config: DataConfig, task: str, *, seed: int) -> DataSplits[Any]:
    """Everything a run needs of its labelled images, read and checked before training starts; of folds the first."""
    if config.folds:
        return load_folds(config, task, seed=seed).first()
    training, validation, test, dropped = _read_all(config, task)
    if validation is None:
        training, validation = hold_out(training, config, seed)
    return DataSplits(training=training, validation=validation, test=test, classes=training.classes, dropped=dropped)


_Read = tuple[LabelledImages[Any], LabelledImages[Any] | None, LabelledImages[Any] | None, dict[str, int]]


def _read_all(config: DataConfig, task: str) -> _Read:
    """The training, the validation and the test set, and what was dropped from all of them."""
    if not config.training:
        raise ConfigError("data.training is not given. Name the labelled images: data.training=PATH.")
    training = read_labelled(config.training, task, config)
    check_training(training, task, config)
    validation, test = (
        read_labelled(path, task, config, classes=training.classes, role=role) if path else None
        for role, path in (("validation", config.validation), ("test", config.test))
    )
    read = [images for images in (training, validation, test) if images is not None]
    for other in read[1:]:
        _warn_of_overlap(training, other)
    return training, validation, test, dict(sum((Counter(images.dropped) for images in read), Counter()))


def check_training(training: LabelledImages[Any], task: str, config: DataConfig) -> None:
    """Refuse what nothing can be learnt from, and warn of classes that are hard to learn."""
    if len(training) < config.minimum_images:
        raise DataError(
            f"{training.source}: {len(training)} labelled images, fewer than data.minimum_images="
            f"{config.minimum_images}. Add images, or lower data.minimum_images."
        )
    if not training.classes:
        raise DataError(f"{training.source}: no label at all, so there is nothing to learn. Label some of the images.")
    if task == "image_classification" and len(training.classes) < 2:
        raise DataError(
            f"{training.source}: every image has the same label, {training.classes[0]!r}; telling classes apart needs "
            "two or more. Add images of another class."
        )
    counts = class_counts(training)
    few = [f"{name} {count}" for name, count in counts.items() if count < ADVISED_IMAGES]
    if few:
        LOG.warning(
            "%s: fewer than %d images of %s; expect these classes to be learnt badly.",
            training.source,
            ADVISED_IMAGES,
            shown_names(few),
        )


def class_counts(images: LabelledImages[Any]) -> dict[str, int]:
    """How many images show each class."""
    counts = np.zeros(len(images.classes), dtype=np.int64)
    for _, classes in classes_seen(labels_of(images.samples)):
        counts += np.bincount(classes, minlength=len(counts))
    return dict(zip(images.classes, counts.tolist(), strict=True))


def hold_out(images: LabelledImages[T], config: DataConfig, seed: int) -> tuple[LabelledImages[T], LabelledImages[T]]:
    """The training and the validation part of one set, as ``data.split`` and ``data.group_by`` ask."""
    labels, groups = _labels_and_groups(images, config)
    stratified = config.split == "stratified"
    parts = split(labels, config.validation_data_size, seed=seed, stratified=stratified, groups=groups)
    training, validation = (part_of(images, indices) for indices in parts)
    unseen = [name for name, count in class_counts(training).items() if not count]
    if unseen:
        LOG.warning(
            "%s: all images of %s were held out for validation; data.split=stratified avoids it.",
            images.source,
            shown_names(unseen),
        )
    return training, validation


def _labels_and_groups(
    images: LabelledImages[Any], config: DataConfig
) -> tuple[Sequence[IntArray], list[str | None] | None]:
    """What decides on a split."""
    return labels_of(images.samples), groups_of(images.samples) if config.group_by else None


def part_of(images: LabelledImages[T], indices: Sequence[int]) -> LabelledImages[T]:
    """Some of the images, in the order of the indices."""
    return replace(images, samples=_chosen(images.samples, indices), headers=_chosen(images.headers, indices))


def _chosen(values: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    if isinstance(values, PackedSamples | PackedHeaders):
        return values.chosen(indices)
    return values and [values[index] for index in indices]


def _warn_of_overlap(training: LabelledImages[Any], other: LabelledImages[Any]) -> None:
    fewer, more = sorted((training, other), key=len)
    held = {*images_of(fewer.samples)}
    shared = sum(image in held for image in images_of(more.samples))
    if shared:
        LOG.warning(
            "%s: %d of its images are also in the training set, %s; scores on them say little.",
            other.source,
            shared,
            training.source,
        )
