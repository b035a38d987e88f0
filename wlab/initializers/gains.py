"""Gains: by how much a layer's weights must grow to make up for its nonlinearity."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_GAINS = {
    "linear": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,
}


def gain(
    nonlinearity: str | Callable[[Float[Array, "..."]], Float[Array, "..."]],
    *,
    slope: float = 0.01,
) -> float:
    """The gain of a nonlinearity by name, or of any function φ by He's criterion.

    linear, sigmoid 1; tanh 5/3; relu √2; leaky_relu √(2/(1 + slope²)); selu 3/4.
    A function: 1/√E[φ(z)²] for z ~ N(0, 1), which keeps the mean square of a deep net.

    Args:
        nonlinearity: One of the names, or an elementwise function such as `jax.nn.gelu`.
        slope: Of leaky_relu, for negative inputs.

    Raises:
        ValueError: If the name is not known.

    Reference:
        He et al. 2015 (arXiv:1502.01852), eq. 10 and 15; the table is the one in common use.
    """
    if callable(nonlinearity):
        return _he_gain(nonlinearity)
    gains = _GAINS | {"leaky_relu": math.sqrt(2 / (1 + slope**2))}
    if nonlinearity not in gains:
        raise ValueError(
            f"No gain is known for {nonlinearity!r}; known: {', '.join(sorted(gains))}. "
            "For another nonlinearity pass the function itself, such as jax.nn.gelu."
        )
    return gains[nonlinearity]


def _he_gain(function: Callable[[Float[Array, "..."]], Float[Array, "..."]]) -> float:
    with jax.ensure_compile_time_eval():
        z = jnp.linspace(-8, 8, 4001)
        density = jnp.exp(-jnp.square(z) / 2)
        mean_square = jnp.sum(jnp.square(function(z)) * density) / jnp.sum(density)
    return 1 / math.sqrt(float(mean_square))
