from collections import OrderedDict

from torch import nn

from lightning_automl_vision import Classifier


def build(*, task: str, num_classes: int, image_size: int, width: int) -> Classifier:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes))
    layers = OrderedDict(stem=block(3, width), body=block(width, 2 * width), head=head)
    return Classifier(nn.Sequential(layers), multilabel=task.endswith("multilabel"))


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
