"""LSUV: scale each layer, in order, until its outputs on a batch have variance one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from wlab import tree
from wlab.initializers.initializer import wide
from wlab.tree.paths import Tree


class LSUVInfo(NamedTuple):
    """What the scaling came to, by path.

    Attributes:
        variances: Of each layer's outputs, after scaling. A layer that never was near one
            (dead, not finite, out of iterations) shows here.
        iterations: How often each kernel was scaled.
    """

    variances: dict[str, Float[Array, ""]]
    iterations: dict[str, Int[Array, ""]]


def lsuv(
    layer_outputs: Callable[[Tree, Any], Mapping[str, Array]],
    params: Tree,
    batch: Any,
    *,
    tolerance: float = 0.01,
    max_iterations: int = 10,
) -> tuple[Tree, LSUVInfo]:
    """Scales kernels so that each layer's outputs on `batch` have variance 1 ± tolerance.

    Layer by layer, W ← W/√Var[outputs]; a layer whose outputs do not vary or are not finite is
    left alone. The method starts from orthogonal kernels (`reinit` with `orthogonal`).

    Args:
        layer_outputs: `(params, batch) -> {path of a kernel: what that layer puts out}`, in the
            order of computation. Compile the call of `lsuv`, not this function: `jax.jit`
            hands dicts back in alphabetical order.
        params: Any tree.
        batch: Inputs, best themselves of variance one.
        tolerance: Largest |variance − 1| that is left as it is.
        max_iterations: At most so many scalings a layer.

    Raises:
        ValueError: If `tolerance` or `max_iterations` is not positive, or `layer_outputs` names
            no layer or one that is no leaf of `params`.

    Reference:
        Mishkin & Matas 2016 (arXiv:1511.06422), algorithm 1.
    """
    order = list(layer_outputs(params, batch))
    _check(order, params, tolerance, max_iterations)

    def variances(scales: Float[Array, " layers"]) -> Float[Array, " layers"]:
        outputs = layer_outputs(_scaled(params, order, scales), batch)
        return jnp.stack([jnp.var(outputs[path].astype(jnp.float32)) for path in order])

    def is_off(
        var: Float[Array, " layers"], count: Int[Array, " layers"]
    ) -> Bool[Array, " layers"]:
        can_scale = (var > 0) & jnp.isfinite(var) & (count < max_iterations)
        return (jnp.abs(var - 1) > tolerance) & can_scale

    def scale_first_off(carry):
        scales, var, count = carry
        chosen = jnp.arange(len(order)) == jnp.argmax(is_off(var, count))
        scales = jnp.where(chosen, scales * jax.lax.rsqrt(var), scales)
        return scales, variances(scales), count + chosen.astype(count.dtype)

    start = jnp.ones(len(order))
    scales, var, count = jax.lax.while_loop(
        lambda carry: jnp.any(is_off(*carry[1:])),
        scale_first_off,
        (start, variances(start), jnp.zeros(len(order), jnp.int32)),
    )
    info = LSUVInfo(dict(zip(order, var, strict=True)), dict(zip(order, count, strict=True)))
    return _scaled(params, order, scales), info


def _scaled(params: Tree, order: list[str], scales: Float[Array, " layers"]) -> Tree:
    kernels = tree.leaves(params)
    new = {}
    for path, scale in zip(order, scales, strict=True):
        dtype = kernels[path].dtype
        scaled = kernels[path].astype(wide(dtype)) * scale.astype(wide(dtype))
        new[path] = scaled.astype(dtype)
    return tree.replace(params, new)


def _check(order: list[str], params: Tree, tolerance: float, max_iterations: int) -> None:
    if not (tolerance > 0 and max_iterations > 0):
        raise ValueError(
            "lsuv: tolerance and max_iterations must be positive, "
            f"got {tolerance} and {max_iterations}."
        )
    paths = tree.paths(params)
    unknown = [path for path in order if path not in paths]
    if unknown or not order:
        raise ValueError(
            f"lsuv: layer_outputs must name leaves of params, such as {paths[:4]}, and at least "
            f"one; it names {unknown or order}."
        )
