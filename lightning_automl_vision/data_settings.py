"""Where labelled images lie and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_automl_vision.keys import key


@dataclass
class DataConfig:
    training: str | None = key(None, "The labelled images to train on: a file or a folder.")
    validation: str | None = key(
        None, "The labelled images to validate on; without it a part of the training set is used."
    )
    test: str | None = key(None, "Labelled images that are scored once, at the end, and never select anything.")
    format: str = key(
        "auto",
        "The form the labels are in; `auto` looks at the file.",
        choices=("auto", "jsonl", "mltable", "coco", "voc", "yolo", "folder", "csv", "masks"),
    )
    images: str | None = key(None, "The folder that image names are relative to, where it is not the label file's own.")
    class_name: str | None = key(None, "The class of every object, for mask pictures, which name none themselves.")
    validation_data_size: float = key(
        0.2,
        "The share of the training set that is held out when there is no validation set.",
        above=0,
        below=1,
        old=("split_ratio",),
    )
    split: str = key(
        "random",
        "How that share is drawn: at random, or so that each class keeps its share.",
        choices=("random", "stratified"),
    )
    folds: int | None = key(
        None, "Train so many models, each validated on its own part of data.training.", minimum=2, maximum=20
    )
    group_by: str | None = key(
        None,
        "Keep images of one group on one side of the split: the name of a JSONL key or CSV column,"
        " or a regular expression with one group that is matched on the image's name.",
    )
    minimum_images: int = key(
        10, "Fewer training images than this are refused; those held out for validation count.", minimum=1
    )
    ignore_data_errors: bool = key(False, "Drop what is faulty and count it, instead of stopping at the first fault.")
    maximum_image_pixels: int = key(
        200_000_000, "Pictures of more pixels than this are a fault: they may be decompression bombs.", minimum=1
    )
    confine_images: bool = key(True, "Refuse relative image names that lead out of the folder they are relative to.")
    url_prefixes: list[str] = key(
        [],
        "What the beginning of an image name stands for, as BEGINNING=PLACE,"
        " such as ['azureml://datastores/mine/paths/=/mnt/images/'].",
    )
    encoding: str = key("utf-8", "The encoding of text files; a byte-order mark is understood.")
    cache: str | None = key(
        None,
        "The folder that remembers image headers between runs, and keeps images that are not on this machine;"
        " by default the user's cache folder.",
    )
    stream_image_files: bool = key(
        False,
        "Read images that are not on this machine while training, and keep as many as there is room for;"
        " else all are downloaded before.",
    )
    cache_size_megabytes: float | None = key(
        None,
        "How much of them may be kept on the disk, for all processes together; by default nine tenths of what is free,"
        " or all of it where everything is downloaded.",
        minimum=0,
    )
