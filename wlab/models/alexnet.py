"""AlexNet in one column."""

from dataclasses import dataclass
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.dense import Dense
from wlab.models.layers import Initializer, he_normal
from wlab.models.model import StatefulModel, stateful_from_nnx

_SIZES = (11, 5, 3, 3, 3)
_STRIDES = (4, 1, 1, 1, 1)
_PADDINGS = (2, 2, 1, 1, 1)
_POOLED = (True, True, False, False, True)


@dataclass(frozen=True)
class AlexNetConfig:
    """Sizes of an AlexNet.

    Attributes:
        classes: Number of outputs; 0 for the convolutions alone, without dense layers.
        widths: Channels of the five convolutions.
        hidden: Widths of the two dense layers before the last one.
        side: The last maps are averaged to side × side cells before the dense layers; images of
            224 pixels have 6 × 6 already.
    """

    classes: int = 1000
    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    hidden: tuple[int, int] = (4096, 4096)
    side: int = 6


class AlexNet(nnx.Module):
    """Images to logits, or to maps if there are no classes."""

    def __init__(self, config: AlexNetConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        inits = {"kernel_init": kernel_init, "rngs": rngs}
        linear, inputs = partial(nnx.Linear, **inits), 3
        for i, width in enumerate(config.widths):
            size, stride, padding = _SIZES[i], _STRIDES[i], ((_PADDINGS[i],) * 2,) * 2
            options = {"strides": stride, "padding": padding, **inits}
            setattr(self, f"conv_{i + 1}", nnx.Conv(inputs, width, (size, size), **options))
            inputs = width
        self.headed = config.classes > 0
        if self.headed:
            self.dense = Dense(inputs, config.hidden, side=config.side, linear=linear)
            self.head = linear(self.dense.outputs, config.classes)

    def __call__(
        self, images: Float[Array, "batch _height _width 3"]
    ) -> Float[Array, "batch *outputs"]:
        features = self.features(images)
        return self.head(features) if self.headed else features

    def features(
        self, images: Float[Array, "batch _height _width 3"]
    ) -> Float[Array, "batch *shape"]:
        """What the head reads; without one, the maps after the last pool."""
        x = images
        for i, pooled in enumerate(_POOLED, start=1):
            x = jax.nn.relu(getattr(self, f"conv_{i}")(x))
            x = nnx.max_pool(x, (3, 3), strides=(2, 2)) if pooled else x
        return self.dense(x) if self.headed else x


def alexnet(
    config: AlexNetConfig = AlexNetConfig(), *, kernel_init: Initializer = he_normal
) -> StatefulModel:
    """AlexNet without groups and without response normalization; images of 63 pixels or more.

    `apply(params, images, model_state) -> (logits, model_state)`, called as the other networks
    for images are: its `model_state` is empty. With `method="features"`, what the head reads.
    Nothing is dropped out.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels.

    Reference:
        Krizhevsky 2014 (arXiv:1404.5997), section 5; widths as in PyTorch.
    """
    return stateful_from_nnx(
        lambda rngs, train: AlexNet(config, kernel_init=kernel_init, rngs=rngs)
    )
