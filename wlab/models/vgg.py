"""VGG: stages of 3×3 convolutions, each stage halved by max pooling, then dense layers."""

from dataclasses import dataclass
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.dense import Dense
from wlab.models.layers import Initializer, he_normal
from wlab.models.model import StatefulModel, stateful_from_nnx
from wlab.models.pooling import halved
from wlab.models.small_maps import convolved


@dataclass(frozen=True)
class VGGConfig:
    """Sizes of a VGG network.

    Attributes:
        widths: Channels of each convolution, stage by stage.
        classes: Number of outputs; 0 for the convolutions alone, without dense layers.
        hidden: Widths of the dense layers before the last one.
        side: The last maps are averaged to side × side cells before the dense layers; images of
            `side * 2**len(widths)` pixels have as many already.
        norms: Whether BatchNorm follows each convolution.
        hidden_norms: Whether it also follows the hidden dense layers.
        epsilon: Added to the variance in the norms.
    """

    widths: tuple[tuple[int, ...], ...]
    classes: int
    hidden: tuple[int, ...] = (4096, 4096)
    side: int = 7
    norms: bool = False
    hidden_norms: bool = False
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not self.widths or not all(self.widths):
            raise ValueError(f"widths: every stage needs a convolution, got {self.widths}.")


_SIXTEEN = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)

vgg16 = VGGConfig(_SIXTEEN, 1000)
vgg16_bn = VGGConfig(_SIXTEEN, 1000, norms=True)
vgg16_cifar = VGGConfig(_SIXTEEN, 10, hidden=(512,), side=1, norms=True, hidden_norms=True)


class _Stage(nnx.Module):
    def __init__(
        self, inputs: int, widths: tuple[int, ...], *, norms: bool, conv: partial, norm: partial
    ):
        self.count, self.normed = len(widths), norms
        for i, width in enumerate(widths, start=1):
            setattr(self, f"conv_{i}", conv(inputs, width, (3, 3), padding="VALID"))
            if norms:
                setattr(self, f"norm_{i}", norm(width))
            inputs = width

    def __call__(
        self, x: Float[Array, "batch _height _width _channels"]
    ) -> Float[Array, "batch _rows _columns _outputs"]:
        for i in range(1, self.count + 1):
            x = convolved(getattr(self, f"conv_{i}"), x)
            x = jax.nn.relu(getattr(self, f"norm_{i}")(x) if self.normed else x)
        return halved(x)


class VGG(nnx.Module):
    """Images to logits, or to maps if there are no classes."""

    def __init__(self, config: VGGConfig, *, kernel_init: Initializer, rngs: nnx.Rngs, train: bool):
        inits = {"kernel_init": kernel_init, "rngs": rngs}
        conv, linear = partial(nnx.Conv, **inits), partial(nnx.Linear, **inits)
        norm = partial(
            nnx.BatchNorm,
            epsilon=config.epsilon,
            momentum=0.9,
            use_running_average=not train,
            rngs=rngs,
        )
        self.stages, inputs = len(config.widths), 3
        for i, widths in enumerate(config.widths):
            stage = _Stage(inputs, widths, norms=config.norms, conv=conv, norm=norm)
            setattr(self, f"stage_{i}", stage)
            inputs = widths[-1]
        self.headed = config.classes > 0
        if self.headed:
            norms = norm if config.hidden_norms else None
            options = {"side": config.side, "linear": linear, "norm": norms}
            self.dense = Dense(inputs, config.hidden, **options)
            self.head = linear(self.dense.outputs, config.classes)

    def __call__(
        self, images: Float[Array, "batch _height _width 3"]
    ) -> Float[Array, "batch *outputs"]:
        features = self.features(images)
        return self.head(features) if self.headed else features

    def features(
        self, images: Float[Array, "batch _height _width 3"]
    ) -> Float[Array, "batch *shape"]:
        """What the head reads; without one, the maps of the last stage."""
        x = images
        for i in range(self.stages):
            x = getattr(self, f"stage_{i}")(x)
        return self.dense(x) if self.headed else x


def vgg(config: VGGConfig, *, kernel_init: Initializer = he_normal) -> StatefulModel:
    """A VGG network; images may have any size that its stages can halve.

    `apply(params, images, model_state, train=False) -> (logits, model_state)`; with
    `method="features"`, what the head reads. Nothing is dropped out.

    Args:
        config: The sizes: `vgg16` and `vgg16_bn` for ImageNet, `vgg16_cifar`, or your own.
        kernel_init: `(key, shape, dtype) -> array`, for kernels.

    Reference:
        Simonyan & Zisserman 2015 (arXiv:1409.1556), table 1, column D; for CIFAR, Liu & Deng
        2015, "Very deep convolutional neural network based image classification using small
        training sample size".
    """
    return stateful_from_nnx(
        lambda rngs, train: VGG(config, kernel_init=kernel_init, rngs=rngs, train=train)
    )
