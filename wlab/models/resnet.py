"""Residual networks: the thin ones for CIFAR, the ones with bottlenecks for ImageNet."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.layers import Initializer, he_normal
from wlab.models.model import StatefulModel, stateful_from_nnx

_Conv: TypeAlias = Callable[..., nnx.Conv]  # makes a convolution: (inputs, outputs, size, stride=1)
_Norm: TypeAlias = Callable[[int], nnx.BatchNorm]
_Images: TypeAlias = Float[Array, "batch _height _width _channels"]


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a residual network.

    Attributes:
        blocks: Residual blocks of each stage; every stage but the first halves the image.
        widths: Channels of each stage's 3×3 convolutions.
        classes: Number of outputs.
        bottleneck: 1×1, 3×3, 1×1 convolutions, the last four times as wide, instead of two 3×3.
        large: A 7×7 convolution and a pool that quarter the image first, instead of one 3×3.
        biases: Whether convolutions have biases, as in Keras.
        early_stride: Whether the first 1×1 of a bottleneck halves the image, as in the paper and
            in Keras, and not the 3×3.
        epsilon: Added to the variance in the norms.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    classes: int
    bottleneck: bool = False
    large: bool = False
    biases: bool = False
    early_stride: bool = False
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.widths):
            raise ValueError(
                f"blocks {self.blocks} and widths {self.widths} must have one entry a stage."
            )


def cifar(depth: int, *, classes: int = 10) -> ResNetConfig:
    """ResNet-20, 32, 44, 56, …: three stages of 16, 32, 64 channels, 1×1 shortcuts.

    Raises:
        ValueError: If `depth` is not 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2, as 20 or 56, got {depth}.")
    return ResNetConfig(((depth - 2) // 6,) * 3, (16, 32, 64), classes)


resnet50 = ResNetConfig((3, 4, 6, 3), (64, 128, 256, 512), 1000, bottleneck=True, large=True)


class _Basic(nnx.Module):
    def __init__(
        self, inputs: int, width: int, stride: int, early: bool, *, conv: _Conv, norm: _Norm
    ):
        del early
        self.conv_1 = conv(inputs, width, 3, stride=stride)
        self.conv_2 = conv(width, width, 3)
        self.norm_1, self.norm_2 = norm(width), norm(width)

    def __call__(self, x: _Images) -> _Images:
        return self.norm_2(self.conv_2(jax.nn.relu(self.norm_1(self.conv_1(x)))))


class _Bottleneck(nnx.Module):
    def __init__(
        self, inputs: int, width: int, stride: int, early: bool, *, conv: _Conv, norm: _Norm
    ):
        self.conv_1 = conv(inputs, width, 1, stride=stride if early else 1)
        self.conv_2 = conv(width, width, 3, stride=1 if early else stride)
        self.conv_3 = conv(width, 4 * width, 1)
        self.norm_1, self.norm_2, self.norm_3 = norm(width), norm(width), norm(4 * width)

    def __call__(self, x: _Images) -> _Images:
        x = jax.nn.relu(self.norm_1(self.conv_1(x)))
        x = jax.nn.relu(self.norm_2(self.conv_2(x)))
        return self.norm_3(self.conv_3(x))


class _Block(nnx.Module):
    """A branch added to its input; where the shapes differ, to a 1×1 convolution of it."""

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        config: ResNetConfig,
        *,
        conv: _Conv,
        norm: _Norm,
    ):
        kind = _Bottleneck if config.bottleneck else _Basic
        outputs = 4 * width if config.bottleneck else width
        self.branch = kind(inputs, width, stride, config.early_stride, conv=conv, norm=norm)
        self.projected = stride != 1 or inputs != outputs
        if self.projected:
            self.shortcut = conv(inputs, outputs, 1, stride=stride)
            self.shortcut_norm = norm(outputs)

    def __call__(self, x: _Images) -> _Images:
        short = self.shortcut_norm(self.shortcut(x)) if self.projected else x
        return jax.nn.relu(self.branch(x) + short)


class ResNet(nnx.Module):
    """Images to logits."""

    def __init__(
        self, config: ResNetConfig, *, kernel_init: Initializer, rngs: nnx.Rngs, train: bool
    ):
        conv = partial(_conv, use_bias=config.biases, kernel_init=kernel_init, rngs=rngs)
        norm = partial(
            nnx.BatchNorm,
            epsilon=config.epsilon,
            momentum=0.9,
            use_running_average=not train,
            rngs=rngs,
        )
        self.large, self.names = config.large, []
        inputs = config.widths[0]
        self.stem = conv(3, inputs, 7, stride=2) if config.large else conv(3, inputs, 3)
        self.norm = norm(inputs)
        for stage, (count, width) in enumerate(zip(config.blocks, config.widths, strict=True)):
            for i in range(count):
                stride = 2 if stage and not i else 1
                name = f"block_{stage}_{i}"
                setattr(self, name, _Block(inputs, width, stride, config, conv=conv, norm=norm))
                self.names.append(name)
                inputs = 4 * width if config.bottleneck else width
        self.head = nnx.Linear(inputs, config.classes, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, images: _Images) -> Float[Array, "batch classes"]:
        return self.head(self.features(images))

    def features(self, images: _Images) -> Float[Array, "batch width"]:
        """The mean over the image of what the last block gives."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        if self.large:
            x = _pool(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return jnp.mean(x, axis=(1, 2))


def resnet(config: ResNetConfig, *, kernel_init: Initializer = he_normal) -> StatefulModel:
    """A residual network.

    `apply(params, images, model_state, train=False) -> (logits, model_state)`; with
    `method="features"`, what the head reads.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels.

    Reference:
        He et al. 2016 (arXiv:1512.03385), §3.3 and 4.2, shortcuts of kind B.
    """
    return stateful_from_nnx(
        lambda rngs, train: ResNet(config, kernel_init=kernel_init, rngs=rngs, train=train)
    )


def _conv(inputs: int, outputs: int, size: int, *, stride: int = 1, **options: Any) -> nnx.Conv:
    """Padded alike on both sides, as papers and PyTorch do where strides meet even sizes."""
    sides = ((size // 2, size // 2),) * 2
    return nnx.Conv(inputs, outputs, (size, size), (stride, stride), padding=sides, **options)


def _pool(x: _Images) -> _Images:
    """The largest of each 3×3 neighbourhood, every second one, padded alike on both sides."""
    sides = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)
