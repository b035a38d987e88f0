"""Sensitivity: what a network loses if one leaf is rounded."""

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import tree
from wlab.quantization.arrays import quantize, round_to_grid
from wlab.quantization.formats import Format, check_leaf
from wlab.quantization.ranges import RangeFn, absmax
from wlab.tree import Rules, Table
from wlab.tree.paths import Tree

Harm: TypeAlias = Callable[[Any, Any], Array]  # (outputs as they were, outputs) -> scalar


def sensitivity(
    fn: Callable[..., Any],
    params: Tree,
    batches: Sequence[tuple[Any, ...]],
    formats: Sequence[Format],
    rules: Rules[bool | None] | None = None,
    *,
    harm: Harm | None = None,
    range_fn: RangeFn = absmax,
) -> Table:
    """A row for each leaf and format: its bytes, and the harm if that leaf alone is rounded to it.

    The function is compiled once: a rounded leaf has the shape it had. Harm is the mean over
    batches.

    Args:
        fn: `(params, *batch) -> outputs`, of any structure; or a loss, with `harm=loss_rise`.
        params: Any tree.
        batches: Each a tuple of arguments, all of one shape; what `fn` gives for each is kept.
        formats: To be tried on every leaf.
        rules: Which leaves; without them every float leaf of two or more axes.
        harm: `output_error` if None, `logit_kl`, `loss_rise`, or one's own; less is better.
        range_fn: See `quantize`.

    Raises:
        ValueError: If there are no batches or formats, the rules do not fit the tree, or a leaf
            does not take a format.
        TypeError: If a selected leaf is not floating point.

    Reference:
        Dong et al. 2019 (arXiv:1905.03696) and Wu et al. 2020 (arXiv:2004.09602): one layer
        at a time, here measured rather than estimated from curvature.
    """
    if not batches or not formats:
        raise ValueError("sensitivity: give at least one batch and one format.")
    leaves = tree.leaves(params)
    chosen = tree.selected(
        _matrices(params) if rules is None else rules, params, purpose="sensitivity"
    )
    for path in chosen:
        for format in formats:
            check_leaf(leaves[path], format, repr(path))
    measure = output_error if harm is None else harm
    outputs = jax.jit(fn)
    references = [outputs(params, *batch) for batch in batches]
    compared = jax.jit(lambda p, reference, *batch: measure(reference, fn(p, *batch)))
    rows: list[tuple[Any, ...]] = []
    for path in chosen:
        for format in formats:
            rounded = _rounded(leaves[path], format, range_fn)
            changed = tree.replace(params, {path: rounded})
            found = [
                float(compared(changed, reference, *batch))
                for reference, batch in zip(references, batches, strict=True)
            ]
            rows.append((path, format, coded_bytes(leaves[path], format), sum(found) / len(found)))
    return Table(("path", "format", "bytes", "harm"), tuple(rows))


def output_error(reference: Any, outputs: Any) -> Float[Array, ""]:
    r"""The squared error of outputs, relative to them: $\sum (y - \hat y)^2 / \sum y^2$."""
    before, after = jax.tree.leaves(reference), jax.tree.leaves(outputs)
    lost = sum(_squares(y - x) for x, y in zip(before, after, strict=True))
    return jnp.asarray(lost / sum(_squares(x) for x in before))


def logit_kl(
    reference: Float[Array, "*lead classes"], logits: Float[Array, "*lead classes"]
) -> Float[Array, ""]:
    r"""The mean over positions of $\sum_c p_c \log (p_c / \hat p_c)$ of two softmaxes, in nats."""
    before = jax.nn.log_softmax(reference.astype(jnp.float32))
    after = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.mean(jnp.sum(jnp.exp(before) * (before - after), axis=-1))


def loss_rise(reference: Float[Array, ""], loss: Float[Array, ""]) -> Float[Array, ""]:
    """By how much a loss is larger than it was; may be negative."""
    return loss - reference


def coded_bytes(leaf: Any, format: Format | None) -> int:
    """Bytes of an array, or a shape, in a format: codes, scales, zero points; as it is if None."""
    return tree.leaf_bytes(leaf) if format is None else _counted(leaf.shape, leaf.dtype, format)


@cache
def _counted(shape: tuple[int, ...], dtype: Any, format: Format) -> int:
    """Layers are alike: each shape is counted once."""
    planned = jax.ShapeDtypeStruct(shape, dtype)
    return tree.nbytes(jax.eval_shape(lambda x: quantize(x, format), planned))


@partial(jax.jit, static_argnums=(1, 2))
def _rounded(leaf: Array, format: Format, range_fn: RangeFn) -> Array:
    return round_to_grid(leaf, format, range_fn=range_fn)


def _matrices(params: Tree) -> Rules[bool | None]:
    def is_one(leaf: Any) -> bool:
        return jnp.ndim(leaf) > 1 and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)

    return [(re.escape(path), is_one(leaf)) for path, leaf in tree.param_leaves(params).items()]


def _squares(x: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.square(x.astype(jnp.float32)))
