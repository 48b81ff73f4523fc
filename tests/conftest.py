"""What several tests share: toy batches for every task a model may serve."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import settings

# Networks this small are slowed down by more threads; commands that tests start take it from here.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared machine may take any time over an example.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

with suppress(ImportError):
    from absl import logging as absl_logging  # of tensorboard

    # When hydra sets up logging anew, absl closes the stream it has: that would be where pytest keeps what is said.
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

ToyBatch = Callable[..., object]


@pytest.fixture(scope="session")
def toy_batch() -> ToyBatch:
    """``toy_batch(task, images=4, size=64, classes=3)``: noise in which a class makes a channel bright.

    For tasks with objects each picture holds up to two bright rectangles; the second picture is without any.
    """
    import torch

    from lightning_automl_vision.models import Batch, Targets

    def make(task, *, images=4, size=64, classes=3):
        if task in ("image_object_detection", "image_instance_segmentation"):
            return toy_objects(task, images=images, size=size, classes=classes)
        labels = torch.arange(images) % classes
        present = torch.nn.functional.one_hot(labels, classes)
        if task == "image_classification_multilabel":
            present[:, 0] = torch.arange(images) % 2
            labels = present.float()
        bright = torch.stack([present[:, channel::3].sum(dim=1) for channel in range(3)], dim=1) * 120
        noise = torch.randint(0, 100, (images, 3, size, size), generator=torch.Generator().manual_seed(7))
        pictures = (noise + bright[:, :, None, None]).clamp(max=255).to(torch.uint8)
        return Batch(images=pictures, targets=Targets(labels=labels), keys=[f"{index}.jpg" for index in range(images)])

    return make


def toy_objects(task, *, images, size, classes):
    import numpy as np
    import torch

    from lightning_automl_vision.data.batching import box_targets, mask_targets
    from lightning_automl_vision.models import Batch
    from lightning_automl_vision.samples import Masks

    random = np.random.default_rng(7)
    pictures = random.integers(0, 60, (images, 3, size, size))
    truth = []
    for number in range(images):
        count = 0 if number == 1 else 1 + number % 2
        labels = (number + np.arange(count)) % classes
        corners = random.uniform(0.05, 0.15, (count, 2)) * size + np.arange(count)[:, None] * size * 0.45
        boxes = np.hstack([corners, corners + random.uniform(0.25, 0.35, (count, 2)) * size])
        for (left, top, right, bottom), label in zip(boxes.round().astype(int), labels, strict=True):
            pictures[number, label % 3, top:bottom, left:right] += 180
        polygons = tuple((np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]),) for x0, y0, x1, y1 in boxes)
        truth.append(Masks(labels=labels, boxes=boxes, crowd=np.zeros(count, np.bool_), polygons=polygons))
    return Batch(
        images=torch.from_numpy(pictures.astype(np.uint8)),
        targets=mask_targets(truth) if task == "image_instance_segmentation" else box_targets(truth),
        keys=[f"{index}.jpg" for index in range(images)],
        indices=list(range(images)),
    )
