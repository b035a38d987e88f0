"""LeNet-5 as Caffe ships it, the network of the compression papers."""

from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.layers import Initializer, he_normal, zeros
from wlab.models.model import Model, from_nnx
from wlab.models.pooling import halved


class LeNet5(nnx.Module):
    """Two convolutions, each followed by 2×2 max pooling, and two fully connected layers.

    The only activation is the ReLU after `fc1`: pooling is the others' nonlinearity.
    """

    def __init__(
        self,
        side: int,
        channels: int,
        classes: int,
        *,
        kernel_init: Initializer,
        bias_init: Initializer,
        rngs: nnx.Rngs,
    ):
        inits = {"kernel_init": kernel_init, "bias_init": bias_init, "rngs": rngs}
        conv = partial(nnx.Conv, kernel_size=(5, 5), padding="VALID", **inits)
        self.image = (side, side, channels)
        self.conv1, self.conv2 = conv(channels, 20), conv(20, 50)
        self.fc1 = nnx.Linear(50 * _pooled(_pooled(side)) ** 2, 500, **inits)
        self.fc2 = nnx.Linear(500, classes, **inits)

    def __call__(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch classes"]:
        x = x.reshape(x.shape[0], *self.image)
        for conv in (self.conv1, self.conv2):
            x = halved(conv(x))
        return self.fc2(jax.nn.relu(self.fc1(x.reshape(x.shape[0], -1))))


def lenet5(
    side: int = 28,
    channels: int = 1,
    classes: int = 10,
    *,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
) -> Model:
    """LeNet-5 (Caffe): 20 and 50 filters of 5×5, 500 hidden units, 431,080 weights on MNIST.

    Inputs are `(batch, side, side, channels)`, or flattened. Convolution kernels are
    `(5, 5, inputs, outputs)`.

    Args:
        side: Height and width of the images, pixels.
        kernel_init: `(key, shape, dtype) -> array`.
        bias_init: Likewise.

    Raises:
        ValueError: If the images are too small to be pooled twice.

    Reference:
        LeCun et al. 1998; layer sizes of Han et al. 2015 (arXiv:1506.02626), section 4.1.
    """
    if _pooled(_pooled(side)) < 1:
        raise ValueError(f"lenet5: side must be at least 16 pixels, got {side}.")
    return from_nnx(
        lambda rngs: LeNet5(
            side,
            channels,
            classes,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )
    )


def _pooled(side: int) -> int:
    """Pixels left after a 5×5 convolution and 2×2 pooling."""
    return (side - 4) // 2
