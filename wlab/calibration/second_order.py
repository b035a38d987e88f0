"""Second order: how much changing one input's weights costs, once the others make up for it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Square = Float[Array, "inputs inputs"]

_MOST = 1.0  # of the mean of the diagonal: more damping is no second order any more


def inverse_factor(gram: Square, damping: float | Float[Array, ""] = 0.01) -> Square:
    """U, upper triangular, with UᵀU the inverse of XᵀX; NaN if that has none.

    Inputs that are never there have a row and a column of the unit matrix.

    Args:
        gram: XᵀX.
        damping: Added to the diagonal, as a part of its mean.
    """
    diagonal = jnp.diagonal(gram)
    added = jnp.where(diagonal > 0, damping * jnp.mean(diagonal), 1)
    # Reversed, a lower factor is an upper one: XᵀX = RRᵀ, and U is the inverse of R.
    lower = jnp.linalg.cholesky((gram + jnp.diag(added))[::-1, ::-1])
    unit = jnp.eye(len(gram), dtype=gram.dtype)
    return jax.scipy.linalg.solve_triangular(lower[::-1, ::-1], unit, lower=False)


def damped_factor(gram: Square, damping: float, *, path: str, purpose: str) -> Square:
    """`inverse_factor`, on the host: ten times the damping where there is no inverse, and said.

    Args:
        gram: XᵀX.
        damping: The first to be tried, as a part of the mean of the diagonal.
        path: Of the leaf, for the warning and the error.
        purpose: Of the caller, likewise.

    Raises:
        ValueError: If XᵀX has no inverse with any damping up to 1.
    """
    while True:
        found = _inverse_factor(gram, jnp.float32(damping))
        if np.isfinite(np.asarray(found)).all():
            return found
        more = 10 * damping if damping else 1e-4
        if more > _MOST:
            raise ValueError(
                f"{purpose}: XᵀX of {path!r} has no inverse, even with damping {damping}. "
                "Calibrate on more data, or leave the leaf alone by a rule."
            )
        warnings.warn(
            f"{purpose}: XᵀX of {path!r} has no inverse with damping {damping}; trying {more}.",
            stacklevel=2,
        )
        damping = more


def refuse_bad_damping(damping: float, block: int, *, purpose: str) -> None:
    """Raises a ValueError unless the damping is in [0, 1] and a block has a row."""
    if not 0 <= damping <= _MOST:
        raise ValueError(f"{purpose}: damping is a part of a mean, from 0 to 1; got {damping}.")
    if block < 1:
        raise ValueError(f"{purpose}: block is a number of rows, at least 1; got {block}.")


def energy(kernel: Float[Array, "inputs outputs"], gram: Square) -> Float[Array, ""]:
    """‖XW‖²."""
    return jnp.sum(kernel * jnp.matmul(gram, kernel, precision=jax.lax.Precision.HIGHEST))


_inverse_factor = jax.jit(inverse_factor)
