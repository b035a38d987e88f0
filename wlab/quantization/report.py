"""What quantization saved and what it cost. Bytes are counted, never derived from the format.

`wlab.tree.nbytes` of a tree with QTensors is already true: codes, scales and zero points.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import tree
from wlab.quantization.arrays import dequantize, quantize, round_to_grid
from wlab.quantization.formats import Format
from wlab.quantization.qtensor import QTensor, is_qtensor
from wlab.tree import Table
from wlab.tree.paths import Tree


def effective_bits(q: QTensor) -> float:
    """Bits a weight with scales and zero points: 4.125 for int4, groups of 128, float16."""
    return 8 * tree.nbytes(q) / math.prod(q.shape)


def bits_per_weight(format: Format, shape: tuple[int, ...]) -> float:
    """Bits a weight that an array of this shape will take, without there being one.

    Scales, zero points and the last byte of each row are counted: what `quantize` would write.

    Raises:
        ValueError: If the shape lacks the format's axis, or holds no weights.
    """
    if math.prod(shape) == 0:
        raise ValueError(f"bits_per_weight: the shape {list(shape)} holds no weights.")
    planned = jax.ShapeDtypeStruct(shape, jnp.float32)
    return effective_bits(jax.eval_shape(lambda x: quantize(x, format), planned))


def sqnr(x: Float[Array, "*shape"], rounded: Float[Array, "*shape"] | Format) -> Float[Array, ""]:
    r"""Signal to quantization noise, $10 \log_{10}(\sum x^2 / \sum (x - \hat x)^2)$, in dB.

    Args:
        x: What there was.
        rounded: What became of it, or the format to round it to.
    """
    if isinstance(rounded, Format):
        rounded = round_to_grid(x, rounded)
    x, rounded = x.astype(jnp.float32), rounded.astype(jnp.float32)
    return 10 * jnp.log10(jnp.sum(jnp.square(x)) / jnp.sum(jnp.square(x - rounded)))


def report(params: Tree, quantized: Tree) -> Table:
    """A row a leaf (format, bits a weight, bytes, SQNR in dB), those left alone too; a total.

    Args:
        params: The tree before.
        quantized: The same tree with QTensors in it, from `quantize_tree`.
    """
    flat = jax.tree_util.tree_flatten_with_path(quantized, is_leaf=is_qtensor)[0]
    before = tree.leaves(params)
    rows = [_row(path, before[path], leaf) for key, leaf in flat for path in [tree.path_name(key)]]
    nbytes = sum(row[3] for row in rows)
    total = ("total", None, 8 * nbytes / tree.count(params), nbytes, None)
    return Table(("path", "format", "bits", "bytes", "sqnr_db"), (*rows, total))


def _row(path: str, before: Any, leaf: Any) -> tuple[Any, ...]:
    nbytes = tree.nbytes(leaf)
    if not is_qtensor(leaf):
        return path, None, float(tree.bits(leaf.dtype)), nbytes, None
    noise = float(_sqnr_of(before, leaf))
    return path, str(leaf.format), effective_bits(leaf), nbytes, noise


@jax.jit
def _sqnr_of(before: Array, q: QTensor) -> Float[Array, ""]:
    return sqnr(before, dequantize(q))
