"""Reading pictures: ``python benchmarks/data_pipeline.py`` prints ratios measured in one run, on pictures it makes.

CPU seconds of one thread, cases interleaved, medians; the loader alone is wall time, because it is several processes.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask a server for newer versions

import albumentations
import cv2
import numpy as np
import torch

from lightning_automl_vision.augment import TrainingTransform, build_training_transform
from lightning_automl_vision.data.batching import class_targets
from lightning_automl_vision.data.headers import read_headers
from lightning_automl_vision.data.images import read_image
from lightning_automl_vision.data.module import make_loader
from lightning_automl_vision.samples import Labels, Pixels, Sample
from lightning_automl_vision.settings import AugmentConfig, ColorJitterConfig, DataConfig, TrainingConfig

LIMIT = DataConfig.maximum_image_pixels
LABEL = Labels(labels=np.array([0], dtype=np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        small = write_photos(Path(folder) / "small", 64, 500, 375)
        large = write_photos(Path(folder) / "large", 3, 4000, 3000)
        augmenting(small, rounds)
        reducing(large, rounds)
        headers(small, Path(folder))
        loading(small)


def write_photos(folder: Path, count: int, width: int, height: int) -> list[str]:
    """Smooth colours, discs and a little noise: JPEG files about as large as those of a camera."""
    folder.mkdir()
    for number in range(count):
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 255, (height // 64, width // 64, 3), dtype=np.uint8)
        photo = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(40):
            center = (int(generator.integers(width)), int(generator.integers(height)))
            radius = int(generator.integers(4, min(width, height) // 10))
            cv2.circle(photo, center, radius, generator.integers(0, 255, 3).tolist(), -1)
        noise = generator.integers(-8, 9, photo.shape, dtype=np.int16)
        noisy = np.clip(photo.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return [str(path) for path in sorted(folder.iterdir())]


def medians(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each case; they take turns, so that what slows the machine slows all."""
    for case in cases.values():
        case()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        # In another order each time: what ran before a case changes its time.
        for name, case in random.Random(number).sample(list(cases.items()), len(cases)):
            started = time.process_time()
            case()
            seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(title: str, seconds: Mapping[str, float], count: int, baseline: str) -> None:
    print(f"\n{title}")
    for name, value in seconds.items():
        speed = seconds[baseline] / value
        print(f"  {name:<44} {value / count * 1e3:8.2f} ms/image {count / value:9.1f} images/s {speed:6.2f} x")


def transform_at_224() -> TrainingTransform:
    return build_training_transform(
        AugmentConfig(color_jitter=ColorJitterConfig(p=1.0)),
        TrainingConfig(training_crop_size=224, validation_crop_size=224, validation_resize_size=256),
    )


def augmenting(photos: list[str], rounds: int) -> None:
    ours = transform_at_224()
    plain = albumentations.Compose(
        [
            albumentations.RandomResizedCrop(size=(224, 224), scale=(0.08, 1.0), ratio=(0.75, 1.3333333)),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.05, 0.05), p=1.0),
        ]
    )
    pictures = [read_image(photo, maximum_pixels=LIMIT) for photo in photos]
    numbers = iter(range(1 << 30))

    def read(photo: str) -> Pixels:
        return read_image(photo, maximum_pixels=LIMIT, short_side=ours.short_side)

    generator = np.random.default_rng(0)
    cases = {
        "plain albumentations: cv2 decode + augment": lambda: [
            plain(image=cv2.imread(photo, cv2.IMREAD_COLOR_RGB)) for photo in photos
        ],
        "this package: decode + augment": lambda: [ours(read(photo), LABEL, (0, 0, next(numbers))) for photo in photos],
    }
    show("Decode 500 x 375 + augment to 224 (goal 0.9 x)", medians(cases, rounds), len(photos), next(iter(cases)))
    cases = {
        "plain albumentations": lambda: [plain(image=picture) for picture in pictures],
        "this package": lambda: [ours(picture, LABEL, (0, 0, next(numbers))) for picture in pictures],
        "of that, the seed of each image": lambda: [
            plain.set_random_state(
                np.random.default_rng((0, 0, next(numbers))), random.Random(int(generator.integers(9)))
            )
            for _ in photos
        ],
    }
    show("Augment to 224", medians(cases, rounds), len(photos), next(iter(cases)))


def reducing(photos: list[str], rounds: int) -> None:
    def ours(short_side: int | None) -> Callable[[], object]:
        return lambda: [read_image(photo, maximum_pixels=LIMIT, short_side=short_side) for photo in photos]

    def opencv(flags: int) -> Callable[[], object]:
        return lambda: [cv2.imread(photo, flags) for photo in photos]

    cases = {
        "cv2, whole": opencv(cv2.IMREAD_COLOR_RGB),
        "this package, whole": ours(None),
        "cv2, 1/2": opencv(cv2.IMREAD_REDUCED_COLOR_2),
        "this package, 1/2 (goal 1.9 x)": ours(1500),
        "cv2, 1/4": opencv(cv2.IMREAD_REDUCED_COLOR_4),
        "this package, 1/4 (goal 2.2 x)": ours(750),
        "this package, 1/8": ours(375),
    }
    show("Decode 4000 x 3000", medians(cases, rounds), len(photos), "cv2, whole")


def headers(photos: list[str], folder: Path) -> None:
    links = folder / "links"
    links.mkdir()
    images = [str(links / f"{number}.jpg") for number in range(1000)]
    for number, image in enumerate(images):
        os.link(photos[number % len(photos)], image)
    config = DataConfig(cache=str(folder / "cache"))
    print("\nHeaders of 1000 files")
    for name in ("read", "remembered"):
        cpu, wall = time.process_time(), time.perf_counter()
        read_headers(images, config)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(f"  {name:<44} {cpu * 1e3:8.1f} ms CPU {wall * 1e3:9.1f} ms wall")


def loading(photos: list[str]) -> None:
    samples = [Sample(image=photo, target=LABEL) for photo in photos * 8]
    print(f"\nLoader, {len(samples)} images, batches of 32 (wall)")
    for workers in (0, 1, 2):
        batches = make_loader(
            samples,
            num_classes=1,
            truth=class_targets,
            transform=transform_at_224(),
            batch_size=32,
            seed=0,
            shuffle=True,
            workers=workers,
        )
        for epoch in range(2):
            batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            started = time.perf_counter()
            count = sum(len(batch) for batch in batches)
            seconds = time.perf_counter() - started
            name = f"{workers} workers, {'first' if epoch == 0 else 'second'} epoch"
            print(f"  {name:<44} {seconds / count * 1e3:8.2f} ms/image {count / seconds:9.1f} images/s")


if __name__ == "__main__":
    main()
