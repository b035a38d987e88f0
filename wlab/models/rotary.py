"""Rotary positions: queries and keys turned by angles that grow with their place."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Layout: TypeAlias = Literal["halves", "interleaved"]


def refuse_layout(layout: str) -> None:
    """Raises ValueError if there is no such layout."""
    if layout not in get_args(Layout):
        raise ValueError(f"rotary must be one of {get_args(Layout)}, got {layout!r}.")


def rotate(
    x: Float[Array, "batch time heads size"],
    places: Int[Array, "batch time"],
    *,
    base: float,
    layout: Layout,
    factors: Sequence[float] = (),
) -> Float[Array, "batch time heads size"]:
    r"""Turns the pair $j$ of each head by $\mathrm{place} \cdot \mathrm{base}^{-2j/\mathrm{size}}$.

    Args:
        x: Queries or keys.
        places: The position of each token.
        base: How slowly the last pair turns; 10,000 in the paper.
        layout: Which entries make a pair: $j$ and $j + \mathrm{size}/2$ (`halves`) or $2j$ and
            $2j + 1$ (`interleaved`).
        factors: What the angle of each pair is divided by, for a longer context; empty for nothing.

    Reference:
        Su et al. 2021 (arXiv:2104.09864), eq. 15 and 34; Chen et al. 2023 (arXiv:2306.15595),
        eq. 4: angles divided.
    """
    size = x.shape[-1]
    turns = jnp.float32(base) ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    if factors:
        turns = turns / jnp.asarray(factors, jnp.float32)
    angles = (places[..., None].astype(jnp.float32) * turns[None, None])[:, :, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    wide = x.astype(jnp.float32)
    if layout == "halves":
        a, b = wide[..., : size // 2], wide[..., size // 2 :]
        out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    else:
        a, b = wide[..., 0::2], wide[..., 1::2]
        out = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)
    return out.astype(x.dtype)
