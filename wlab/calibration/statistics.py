"""What calibration keeps of the inputs of a weight; all of it adds up over batches and devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped

from wlab.graph import Statistic


class Gram(NamedTuple):
    """Sums over rows.

    Attributes:
        products: XᵀX, whose diagonal is the sum of squares of each input.
        rows: How many there were.
    """

    products: Float[Array, "*batch features features"]
    rows: Int32[Array, "*batch"]


class Squares(NamedTuple):
    """Sums over rows.

    Attributes:
        sums: Σx² of each input.
        rows: How many there were.
    """

    sums: Float[Array, "*batch features"]
    rows: Int32[Array, "*batch"]


class Sums(NamedTuple):
    """Sums over rows.

    Attributes:
        sums: Σx of each input.
        rows: How many there were.
    """

    sums: Float[Array, "*batch features"]
    rows: Int32[Array, "*batch"]

    @property
    def mean(self) -> Float[Array, "*batch features"]:
        """Of each input over all rows; NaN if there were none."""
        return self.sums / self.rows[..., None].astype(jnp.float32)


Rows = Shaped[Array, "*batch rows features"]


def gram() -> Statistic:
    """XᵀX and the number of rows, in float32 at the highest precision: what second order needs."""
    return Statistic(_gram)


def squares() -> Statistic:
    """Σx² of each input and the number of rows: what Wanda needs."""
    return Statistic(_squares)


def mean() -> Statistic:
    """Σx of each input and the number of rows, in float32: what bias correction needs."""
    return Statistic(_sums)


def absmax() -> Statistic:
    """The largest magnitude of each input: what ranges are set by."""
    return Statistic(lambda x: jnp.max(jnp.abs(x.astype(jnp.float32)), axis=-2), jnp.maximum)


def _gram(x: Rows) -> Gram:
    x = x.astype(jnp.float32)
    products = jnp.einsum("...nk,...nl->...kl", x, x, precision=jax.lax.Precision.HIGHEST)
    return Gram(products, _rows(x))


def _squares(x: Rows) -> Squares:
    x = x.astype(jnp.float32)
    return Squares(jnp.sum(x * x, axis=-2), _rows(x))


def _sums(x: Rows) -> Sums:
    return Sums(jnp.sum(x.astype(jnp.float32), axis=-2), _rows(x))


def _rows(x: Rows) -> Int32[Array, "*batch"]:
    return jnp.full(x.shape[:-2], x.shape[-2], jnp.int32)
