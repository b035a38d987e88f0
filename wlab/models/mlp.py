"""Fully connected networks."""

from collections.abc import Sequence
from itertools import pairwise

import jax
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.layers import Activation, Initializer, he_normal, zeros
from wlab.models.model import Model, from_nnx


class MLP(nnx.Module):
    """`fc1`, `fc2`, … with an activation after each but the last. Inputs are flattened."""

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Activation,
        *,
        kernel_init: Initializer,
        bias_init: Initializer,
        rngs: nnx.Rngs,
    ):
        self.depth, self.activation = len(sizes) - 1, activation
        for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            layer = nnx.Linear(
                inputs, outputs, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs
            )
            setattr(self, f"fc{i}", layer)

    def __call__(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch outputs"]:
        x = x.reshape(x.shape[0], -1)
        for i in range(1, self.depth):
            x = self.activation(getattr(self, f"fc{i}")(x))
        return getattr(self, f"fc{self.depth}")(x)


def mlp(
    sizes: Sequence[int],
    activation: Activation = jax.nn.relu,
    *,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
) -> Model:
    """A multilayer perceptron; two sizes make a layer of single neurons.

    Kernels are `(inputs, outputs)` at `fc1/kernel`, `fc2/kernel`, …

    Args:
        sizes: Numbers of units: inputs, hidden layers, outputs.
        activation: Applied after every layer but the last.
        kernel_init: `(key, shape, dtype) -> array`.
        bias_init: Likewise.

    Raises:
        ValueError: If there are fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"mlp: sizes must name inputs and outputs, got {list(sizes)}.")
    return from_nnx(
        lambda rngs: MLP(sizes, activation, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)
    )


def lenet_300_100(
    inputs: int = 784,
    classes: int = 10,
    *,
    kernel_init: Initializer = he_normal,
    bias_init: Initializer = zeros,
) -> Model:
    """LeNet-300-100: two hidden layers of 300 and 100 ReLU units, 266,610 weights on MNIST.

    Reference:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition"; with ReLU
        as in Han et al. 2015 (arXiv:1506.02626), section 4.1.
    """
    return mlp([inputs, 300, 100, classes], kernel_init=kernel_init, bias_init=bias_init)
