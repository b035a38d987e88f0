"""The small parts that the networks share."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

Initializer: TypeAlias = Callable[..., Any]  # (key, shape, dtype) -> array
Activation: TypeAlias = Callable[[Any], Any]
ActivationName: TypeAlias = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"]
Linear: TypeAlias = Callable[[int, int], nnx.Linear]  # makes a layer: (inputs, outputs)
Norm: TypeAlias = Callable[[int], "LayerNorm"]  # makes a norm: (width)

zeros: Initializer = jax.nn.initializers.zeros
he_normal: Initializer = jax.nn.initializers.he_normal()
normal: Callable[[float], Initializer] = jax.nn.initializers.normal


def activation_of(name: str) -> Activation:
    r"""The function of that name; `gelu` is exact, `gelu_tanh` and `quick_gelu` approximate it.

    `quick_gelu` is $x\,\sigma(1.702x)$.

    Raises:
        ValueError: If there is no such function.

    Reference:
        Hendrycks & Gimpel 2016 (arXiv:1606.08415), §2.
    """
    if name not in get_args(ActivationName):
        raise ValueError(f"activation must be one of {get_args(ActivationName)}, got {name!r}.")
    exact, tanh = (partial(jax.nn.gelu, approximate=tanh) for tanh in (False, True))
    return {
        "relu": jax.nn.relu,
        "gelu": exact,
        "gelu_tanh": tanh,
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
        "silu": jax.nn.silu,
    }[name]


class Embed(nnx.Module):
    """A table whose rows stand for integers. A row that does not exist reads as NaN."""

    def __init__(self, rows: int, width: int, *, init: Initializer, rngs: nnx.Rngs):
        self.embedding = nnx.Param(init(rngs.params(), (rows, width), jnp.float32))

    def __call__(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        # Under Explicit mesh axes a gather must be told where its rows go: beside their ids.
        place = jax.typeof(ids).sharding
        explicit = AxisType.Explicit in place.mesh.axis_types
        out = NamedSharding(place.mesh, PartitionSpec(*place.spec, None)) if explicit else None
        return self.embedding[...].at[ids].get(mode="fill", out_sharding=out)


class LayerNorm(nnx.Module):
    r"""$(x - \mu)/\sqrt{\sigma^2 + \epsilon}$ over the last axis, scaled and shifted, in float32.

    Reference:
        Ba et al. 2016 (arXiv:1607.06450), eq. 4.
    """

    def __init__(self, width: int, *, epsilon: float, use_bias: bool = True):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32)) if use_bias else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
        at = (None,) * (x.ndim - 1)
        centered = x.astype(jnp.float32) - jnp.mean(x, -1, jnp.float32, keepdims=True)
        variance = jnp.mean(jnp.square(centered), -1, keepdims=True)
        out = centered * jax.lax.rsqrt(variance + self.epsilon) * self.scale[at].astype(jnp.float32)
        if self.bias is not None:
            out = out + self.bias[at].astype(jnp.float32)
        return out.astype(x.dtype)


class RMSNorm(nnx.Module):
    r"""$x/\sqrt{\overline{x^2} + \epsilon}$ over the last axis, scaled, in float32.

    Reference:
        Zhang & Sennrich 2019 (arXiv:1910.07467), eq. 4.
    """

    def __init__(self, width: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
        at = (None,) * (x.ndim - 1)
        wide = x.astype(jnp.float32)
        power = jnp.mean(jnp.square(wide), -1, keepdims=True)
        out = wide * jax.lax.rsqrt(power + self.epsilon) * self.scale[at].astype(jnp.float32)
        return out.astype(x.dtype)


def positions(table: Embed, time: int) -> Float[Array, "1 time width"]:
    """The first rows of a table of learned positions, for a batch.

    Raises:
        ValueError: If the sequence is longer than the table.
    """
    context = table.embedding.shape[0]
    if time > context:
        raise ValueError(f"The sequence has {time} tokens, the model's context is {context}.")
    return table(jnp.arange(time))[None]
