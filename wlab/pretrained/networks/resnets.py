"""Two residual networks that others trained: ResNet-56 on CIFAR-10, ResNet-50 on ImageNet."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from wlab.checkpoint import open_source
from wlab.models import resnet
from wlab.models.resnet import cifar, resnet50
from wlab.pretrained import maps
from wlab.pretrained.networks.network import Network, filled_with_state

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_BLUE_GREEN_RED = np.array([103.939, 116.779, 123.68], np.float32)  # means over ImageNet


def resnet56_cifar10(path: str | Path, **options: Any) -> Network:
    """ResNet-56 from `resnet56_cifar10_0.9320_45k.pth`; `cifar_input` makes its inputs."""
    config = cifar(56)
    name_map = maps.resnet_cifar(config.blocks)
    found = filled_with_state(resnet(config), config, open_source(path), name_map, **options)
    return replace(found, labels=CIFAR10_CLASSES, image_size=32, prepare=cifar_input)


def resnet50_imagenet(path: str | Path, **options: Any) -> Network:
    """ResNet-50 from Keras's `model.json`, with its shards and `labels.json` beside it.

    `imagenet_input` makes its inputs.
    """
    config = replace(resnet50, biases=True, early_stride=True, epsilon=1e-3)
    names = json.loads(Path(path).with_name("labels.json").read_text())
    labels = tuple(names[str(i)] for i in range(config.classes))
    name_map = maps.resnet50_keras()
    found = filled_with_state(resnet(config), config, open_source(path), name_map, **options)
    return replace(found, labels=labels, image_size=224, prepare=imagenet_input)


def cifar_input(
    images: UInt8[np.ndarray, "batch height width 3"],
) -> Float32[np.ndarray, "batch height width 3"]:
    """What this ResNet-56 reads: red, green, blue in [0, 1]."""
    return images.astype(np.float32) / 255


def imagenet_input(
    images: UInt8[np.ndarray, "batch height width 3"],
) -> Float32[np.ndarray, "batch height width 3"]:
    """What Keras's ResNet-50 reads: blue, green, red, each minus its mean over ImageNet."""
    return images[..., ::-1].astype(np.float32) - _BLUE_GREEN_RED
