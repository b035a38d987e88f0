"""A product with tiles: by a kernel where there is one for it, else with the dequantized matrix."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.quantization.execution.launch import FEW, Launch
from wlab.quantization.execution.tiles import Tiles, dense

WIDE = 8192  # outputs: enough programs of one warp each to keep an H100 reading


def tiles_product(
    x: Float[Array, "m k"], weight: Tiles, *, interpret: bool = False
) -> Float[Array, "m n"]:
    """x W in float32: up to 16 rows on a GPU by a kernel, which reads the packed codes once.

    Elsewhere, and for more rows, with the dequantized matrix. Differentiable in x.

    Args:
        x: Rows of inputs.
        weight: Of K inputs by N outputs.
        interpret: Runs the kernel without a GPU.
    """
    by_kernel = x.shape[0] <= FEW and (interpret or jax.default_backend() == "gpu")
    return _by_kernel(x, weight, interpret) if by_kernel else _by_matrix(x, weight)


def launch_for(weight: Tiles, rows: int, dtype: str) -> Launch:
    """How to cut up a product with up to 16 rows: what was fastest on an H100, at 4096² to 16384².

    Args:
        weight: Its tiles.
        rows: Rows of inputs.
        dtype: Of the inputs: in float16 they cannot be scaled ahead without loss.
    """
    count, wide, _ = weight.codes.shape
    splits = max(n for n in (1, 2, 4, 8) if count % n == 0)
    few = 32 if wide % 32 == 0 else 16
    if weight.bits == 8:
        return Launch(few, 1, splits, *((4, 3) if rows == 1 else (2, 4)))
    if rows > 1:
        outputs = max(n for n in (16, 32, 64, 128) if wide % n == 0)
        return Launch(outputs, 1, splits, 4, 4, in_place=dtype != "float16")
    if wide >= WIDE:
        return Launch(few, 1, splits, 1, 3, in_place=True)
    return Launch(8, splits, 1, splits, 3, in_place=True)


def _by_matrix(x: Array, weight: Tiles) -> Array:
    return jnp.dot(x, dense(weight).astype(x.dtype), preferred_element_type=jnp.float32)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _by_kernel(x: Array, weight: Tiles, interpret: bool) -> Array:
    from wlab.quantization.execution.kernels import by_dots, by_planes  # Pallas comes with them

    launch = launch_for(weight, x.shape[0], x.dtype.name)
    kernel = by_planes if x.shape[0] == 1 else by_dots
    return kernel(x, weight, launch, interpret=interpret)


@_by_kernel.defjvp
def _by_kernel_jvp(interpret, primals, tangents):
    x, weight = primals
    return _by_kernel(x, weight, interpret), _by_matrix(tangents[0], weight)
