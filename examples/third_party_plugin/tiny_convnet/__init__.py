from dataclasses import dataclass

from lightning_automl_vision import ModelConfig, ModelSpec, hookimpl, key


@dataclass
class TinyConvnetConfig(ModelConfig):
    width: int = key(16, "Channels of the first layer.", minimum=1)


@hookimpl
def lav_models() -> list[ModelSpec]:
    return [
        ModelSpec(
            name="tiny_convnet",
            tasks=frozenset({"image_classification", "image_classification_multilabel"}),
            builder="tiny_convnet.model:build",
            config=TinyConvnetConfig,
            defaults={"image_classification": {"learning_rate": 0.05}},
            freezable=(("network.stem.",), ("network.body.",)),
            licence="Apache-2.0",
        )
    ]
