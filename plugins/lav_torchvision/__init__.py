"""Detection and instance segmentation with torchvision: Faster R-CNN, RetinaNet, FCOS and Mask R-CNN."""

from __future__ import annotations

from lav_torchvision.architectures import ARCHITECTURES, RESNET_GROUPS
from lightning_automl_vision.hookspecs import hookimpl
from lightning_automl_vision.specs import ModelSpec


@hookimpl
def lav_models() -> list[ModelSpec]:
    return [
        ModelSpec(
            name=name,
            tasks=frozenset({architecture.task}),
            builder=f"lav_torchvision.model:builders.{name}",
            find_weights=f"lav_torchvision.weights:finders.{name}",
            config=architecture.config,
            freezable=RESNET_GROUPS,
            refuses={
                "compile=true": "compiling its network does not pay, a step of its backbone was measured a third"
                " slower on a processor"
            },
            refuses_export={"torch_export": "torch.export cannot follow what goes by the boxes that are found"},
            answers="lav_torchvision.answers:DetectorAnswers.of",
            licence="BSD-3-Clause",
            weights=f"{architecture.trained_on}, BSD-3-Clause",
            parameters=architecture.parameters,
        )
        for name, architecture in ARCHITECTURES.items()
    ]
