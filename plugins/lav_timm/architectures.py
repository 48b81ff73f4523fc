"""The documented classification models: which timm architecture and weights stand behind each name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lav_timm.groups import MOBILENETV2, RESNET, VIT, Groups


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """``name`` is timm's, with the tag of the weights; ``parameters`` are counted with a head of 1000 classes."""

    name: str
    parameters: int
    groups: Groups = RESNET
    image_size: int | None = None
    training_batch_size: int | None = None
    learning_rates: tuple[float, float] | None = None
    aliases: tuple[str, ...] = ()
    trained_on: str = "ImageNet-1k"

    @property
    def tag(self) -> str:
        return self.name.partition(".")[2]

    @property
    def defaults(self) -> Mapping[str, Mapping[str, float]]:
        """The ``training.*`` keys whose default differs from the task's."""
        if self.training_batch_size is None or self.learning_rates is None:
            return {}
        one_label, several_labels = self.learning_rates
        batch = {"training_batch_size": self.training_batch_size}
        return {
            "image_classification": {**batch, "learning_rate": one_label},
            "image_classification_multilabel": {**batch, "learning_rate": several_labels},
        }


@dataclass(frozen=True, kw_only=True)
class VisionTransformer(Architecture):
    groups: Groups = VIT
    image_size: int | None = 224
    trained_on: str = field(default="ImageNet-21k, then 1k")


ARCHITECTURES: Mapping[str, Architecture] = {
    "mobilenetv2": Architecture(name="mobilenetv2_100.ra_in1k", parameters=3_504_872, groups=MOBILENETV2),
    "resnet18": Architecture(name="resnet18.a1_in1k", parameters=11_689_512),
    "resnet34": Architecture(name="resnet34.a1_in1k", parameters=21_797_672),
    "resnet50": Architecture(name="resnet50.a1_in1k", parameters=25_557_032),
    "resnet101": Architecture(name="resnet101.a1h_in1k", parameters=44_549_160),
    "resnet152": Architecture(name="resnet152.a1h_in1k", parameters=60_192_808),
    "resnest50": Architecture(name="resnest50d.in1k", parameters=27_483_240),
    "resnest101": Architecture(name="resnest101e.in1k", parameters=48_275_016),
    "seresnext": Architecture(name="seresnext50_32x4d.racm_in1k", parameters=27_559_896),
    "vits16r224": VisionTransformer(
        name="vit_small_patch16_224.augreg_in21k_ft_in1k",
        parameters=22_050_664,
        training_batch_size=128,
        learning_rates=(0.0125, 0.025),
    ),
    "vitb16r224": VisionTransformer(
        name="vit_base_patch16_224.augreg2_in21k_ft_in1k",
        parameters=86_567_656,
        training_batch_size=48,
        learning_rates=(0.0125, 0.025),
        aliases=("vit",),
    ),
    "vitl16r224": VisionTransformer(
        name="vit_large_patch16_224.augreg_in21k_ft_in1k",
        parameters=304_326_632,
        training_batch_size=10,
        learning_rates=(0.001, 0.002),
    ),
}
