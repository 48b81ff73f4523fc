"""What several tests share: toy batches for every task a model may serve."""

from collections.abc import Callable

import pytest

ToyBatch = Callable[..., object]


@pytest.fixture(scope="session")
def toy_batch() -> ToyBatch:
    """``toy_batch(task, images=4, size=64, classes=3)``: noise in which a class makes a channel bright."""
    import torch

    from lightning_automl_vision.models import Batch, Targets

    def make(task, *, images=4, size=64, classes=3):
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
