"""MobileNetV2: narrow blocks that are wide inside, where each channel is convolved by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.layers import Initializer, he_normal
from wlab.models.model import StatefulModel, stateful_from_nnx

_Conv: TypeAlias = Callable[..., nnx.Conv]  # makes one: (inputs, outputs, size, stride=1, groups=1)
_Norm: TypeAlias = Callable[[int], nnx.BatchNorm]
_Images: TypeAlias = Float[Array, "batch _height _width _channels"]


class Stage(NamedTuple):
    """Blocks of one width.

    Attributes:
        expansion: How much wider each block is inside than its input.
        width: Channels at multiplier 1.
        blocks: How many.
        stride: Of the first one.
    """

    expansion: int
    width: int
    blocks: int
    stride: int


@dataclass(frozen=True)
class MobileNetV2Config:
    """Sizes of a MobileNetV2; those of the paper by default.

    Attributes:
        classes: Number of outputs; 0 for none.
        multiplier: Of all widths, which are then rounded to multiples of 8; the last layer's is
            never below 1.
        stages: Blocks of one width.
        first: Channels of the first convolution at multiplier 1.
        last: Channels of the last convolution at multiplier 1.
        epsilon: Added to the variance in the norms.
    """

    classes: int = 1000
    multiplier: float | int = 1.0
    stages: tuple[Stage, ...] = (
        Stage(1, 16, 1, 1),
        Stage(6, 24, 2, 2),
        Stage(6, 32, 3, 2),
        Stage(6, 64, 4, 2),
        Stage(6, 96, 3, 1),
        Stage(6, 160, 3, 2),
        Stage(6, 320, 1, 1),
    )
    first: int = 32
    last: int = 1280
    epsilon: float = 1e-5


def rounded(width: float | int) -> int:
    """The nearest multiple of 8, at least 8, and the next one where that is 10 % too few."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


class _Block(nnx.Module):
    """1×1 to wide, 3×3 each channel by itself, 1×1 to narrow; added to the input if it fits."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expansion: int,
        stride: int,
        *,
        conv: _Conv,
        norm: _Norm,
    ):
        wide = expansion * inputs
        self.added = stride == 1 and inputs == outputs
        self.expanded = expansion != 1
        if self.expanded:
            self.expand, self.expand_norm = conv(inputs, wide, 1), norm(wide)
        self.depthwise = conv(wide, wide, 3, stride=stride, groups=wide)
        self.depthwise_norm = norm(wide)
        self.project, self.project_norm = conv(wide, outputs, 1), norm(outputs)

    def __call__(self, x: _Images) -> _Images:
        y = jax.nn.relu6(self.expand_norm(self.expand(x))) if self.expanded else x
        y = jax.nn.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.added else y


class MobileNetV2(nnx.Module):
    """Images to logits, or to features if there are no classes."""

    def __init__(
        self, config: MobileNetV2Config, *, kernel_init: Initializer, rngs: nnx.Rngs, train: bool
    ):
        conv = partial(_conv, use_bias=False, kernel_init=kernel_init, rngs=rngs)
        norm = partial(
            nnx.BatchNorm,
            epsilon=config.epsilon,
            momentum=0.9,
            use_running_average=not train,
            rngs=rngs,
        )
        inputs = rounded(config.multiplier * config.first)
        self.stem, self.norm, self.count = conv(3, inputs, 3, stride=2), norm(inputs), 0
        for stage in config.stages:
            outputs = rounded(config.multiplier * stage.width)
            for i in range(stage.blocks):
                sizes = inputs, outputs, stage.expansion, 1 if i else stage.stride
                setattr(self, f"block_{self.count}", _Block(*sizes, conv=conv, norm=norm))
                self.count += 1
                inputs = outputs
        width = rounded(max(1.0, config.multiplier) * config.last)
        self.last, self.last_norm = conv(inputs, width, 1), norm(width)
        self.headed = config.classes > 0
        if self.headed:
            self.head = nnx.Linear(width, config.classes, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, images: _Images) -> Float[Array, "batch outputs"]:
        features = self.features(images)
        return self.head(features) if self.headed else features

    def features(self, images: _Images) -> Float[Array, "batch width"]:
        """The mean over the image of what the last convolution gives."""
        x = jax.nn.relu6(self.norm(self.stem(images)))
        for i in range(self.count):
            x = getattr(self, f"block_{i}")(x)
        return jnp.mean(jax.nn.relu6(self.last_norm(self.last(x))), axis=(1, 2))


def mobilenet_v2(
    config: MobileNetV2Config = MobileNetV2Config(), *, kernel_init: Initializer = he_normal
) -> StatefulModel:
    """A MobileNetV2.

    `apply(params, images, model_state, train=False) -> (logits, model_state)`; with
    `method="features"`, what the head reads. Nothing is dropped out.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels.

    Reference:
        Sandler et al. 2018 (arXiv:1801.04381), tables 1 and 2.
    """
    return stateful_from_nnx(
        lambda rngs, train: MobileNetV2(config, kernel_init=kernel_init, rngs=rngs, train=train)
    )


def _conv(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, **options: Any
) -> nnx.Conv:
    """Padded alike on both sides, as in PyTorch, also where the stride is 2."""
    sides = ((size // 2, size // 2),) * 2
    window = {"strides": (stride, stride), "padding": sides, "feature_group_count": groups}
    return nnx.Conv(inputs, outputs, (size, size), **window, **options)
