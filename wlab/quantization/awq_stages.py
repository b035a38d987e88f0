"""AWQ's work on the leaves of one stage: which factors they get, and their codes then."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import calibration, graph, tree
from wlab.calibration import Gram
from wlab.graph import Scaling, Statistic
from wlab.quantization import kept_codes
from wlab.quantization.arrays import dequantize, quantize
from wlab.quantization.awq_core import Reader, Searched, awq_clip, awq_scale
from wlab.quantization.channels import Uses, averages, matrix_of, of_rows
from wlab.quantization.formats import Format
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn
from wlab.transform import Params


class Inputs(NamedTuple):
    """What is kept of a leaf's inputs.

    Attributes:
        gram: XᵀX and the number of rows.
        sizes: Σ|x|.
    """

    gram: Gram
    sizes: Float[Array, "*batch features"]


class Stage(NamedTuple):
    """What is done at a stage, without the search that found it.

    Attributes:
        factors: Of each scaling that is due, in its order.
        powers: α of each, turn by turn.
        codes: Of each leaf, by path.
        losses: ‖X(W − Ŵ)‖² / ‖XW‖² of each.
    """

    factors: list[Float[np.ndarray, " size"]]
    powers: list[Float[np.ndarray, " turns"]]
    codes: dict[str, QTensor]
    losses: dict[str, float]


class Options(NamedTuple):
    """How `awq` was asked to search."""

    grid: int
    clip: bool
    range_fn: RangeFn


def inputs() -> Statistic:
    """XᵀX and Σ|x|."""
    gram = calibration.gram()

    def measure(x: Array) -> Inputs:
        return Inputs(gram.measure(x), jnp.sum(jnp.abs(x.astype(jnp.float32)), axis=-2))

    return Statistic(measure)


def solved(
    params: Params,
    due: Sequence[Scaling],
    uses: Uses,
    formats: Mapping[str, Format],
    seen: Mapping[str, Inputs],
    options: Options,
) -> Stage:
    """The best factors of one scaling after another, and the codes of all leaves then.

    Args:
        params: The tree as earlier stages have left it.
        due: The scalings that are searched.
        uses: Of every leaf.
        formats: Of the leaves of the stage.
        seen: Of each of those.
        options: How to search.
    """
    now, found = dict(seen), Stage([], [], {}, {})
    for one in due:
        best = _searched(params, one, uses, readers_of(one, formats), now, options)
        s = np.asarray(best.scale).reshape(-1)
        for path in readers_of(one, formats):
            now[path] = _divided(now[path], jnp.asarray(of_rows(one, uses[path], s)))
        params = graph.rescale(params, one, s)
        found.factors.append(s)
        found.powers.append(np.asarray(best.power))
    for path, format in formats.items():
        matrix, gram = matrix_of(params, uses[path]), now[path].gram.products
        q, lost, had = _round(matrix, gram, format, options.clip, options.range_fn)
        found.codes[path], found.losses[path] = q, float(lost) / float(had) if had else 0.0
    return found


def readers_of(one: Scaling, formats: Mapping[str, Format]) -> dict[str, Format]:
    """The leaves with a format that read the inputs of a scaling."""
    paths = [part.path for part in one.consumers if part.path in formats]
    return {path: formats[path] for path in paths}


def applied(params: Params, due: Sequence[Scaling], uses: Uses, stage: Stage) -> Params:
    """The tree with the factors of a stage, and the values of its codes."""
    for one, s in zip(due, stage.factors, strict=True):
        params = graph.rescale(params, one, s)
    leaves, new = tree.leaves(params), {}
    for path, q in stage.codes.items():
        matrix = jax.eval_shape(partial(graph.to_matrix, uses[path]), leaves[path])
        values = _values(q).reshape(matrix.shape).astype(matrix.dtype)
        new[path] = graph.from_matrix(uses[path], values)
    return tree.replace(params, new)


def arrays_of(stage: Stage) -> dict[str, Any]:
    """A stage as arrays by name."""
    found: dict[str, Any] = {}
    for i, (s, power) in enumerate(zip(stage.factors, stage.powers, strict=True)):
        found |= {f"factors:{i}": s, f"powers:{i}": power}
    for path, q in stage.codes.items():
        parts = kept_codes.written(q, stage.losses[path])
        found |= {f"{name}:{path}": x for name, x in parts.items() if x is not None}
    return found


def stage_of(
    arrays: Mapping[str, Any],
    params: Params,
    due: Sequence[Scaling],
    uses: Uses,
    formats: Mapping[str, Format],
) -> Stage:
    """The stage that `arrays_of` was given."""
    leaves, codes, losses = tree.leaves(params), {}, {}
    for path, format in formats.items():
        named = {name: f"{name}:{path}" for name in kept_codes.NAMES}
        parts = {name: arrays[key] for name, key in named.items() if key in arrays}
        matrix = jax.eval_shape(partial(graph.to_matrix, uses[path]), leaves[path])
        codes[path], losses[path] = kept_codes.read(parts, format, matrix.shape[-1])
    factors, powers = (
        [np.asarray(arrays[f"{name}:{i}"]) for i in range(len(due))]
        for name in ("factors", "powers")
    )
    return Stage(factors, powers, codes, losses)


@jax.jit
def _divided(seen: Inputs, rows: Array) -> Inputs:
    """What is seen of inputs that are divided by the factors of their rows."""
    products = seen.gram.products / (rows[..., :, None] * rows[..., None, :])
    return Inputs(seen.gram._replace(products=products), seen.sizes / rows)


def _searched(
    params: Params,
    one: Scaling,
    uses: Uses,
    formats: Mapping[str, Format],
    seen: Mapping[str, Inputs],
    options: Options,
) -> Searched:
    """The best factors of each turn of the loops."""
    size, readers = one.size // one.turns, []
    starts = size * np.arange(one.turns).reshape(-1, 1, 1)
    for path in formats:
        rows = graph.rows(one, uses[path])
        rows = rows.reshape(one.turns, -1, rows.shape[-1])
        own = np.where(rows > 0, rows - starts, 0)
        readers.append((matrix_of(params, uses[path]), seen[path].gram.products, own))
    means = {
        path: np.asarray(seen[path].sizes) / np.asarray(seen[path].gram.rows)[..., None]
        for path in formats
    }
    mean = averages(one, uses, means).reshape(one.turns, size)
    return _search(readers, mean, tuple(formats.values()), options.grid, options.range_fn)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _search(
    readers: Sequence[tuple[Array, Array, Array]],
    mean: Array,
    formats: tuple[Format, ...],
    grid: int,
    range_fn: RangeFn,
) -> Searched:
    """Turn by turn."""
    turns = [
        Reader(*(x.reshape(*rows.shape[:2], *x.shape[-2:]) for x in arrays), rows=rows)
        for *arrays, rows in readers
    ]
    search = partial(awq_scale, grid=grid, range_fn=range_fn)
    return jax.lax.map(lambda turn: search(turn[0], formats, turn[1]), (turns, mean))


@partial(jax.jit, static_argnums=(2, 3, 4))
def _round(
    matrix: Array, gram: Array, format: Format, clip: bool, range_fn: RangeFn
) -> tuple[QTensor, Array, Array]:
    """A leaf's matrices rounded: their codes, what was lost, and what there was."""

    def one(pair: tuple[Array, Array]) -> tuple[QTensor, Array, Array]:
        kernel, products = pair
        cut = awq_clip(kernel, products, format, range_fn=range_fn) if clip else kernel
        q = quantize(cut, format, range_fn=range_fn)
        lost, had = (calibration.energy(x, products) for x in (kernel - dequantize(q), kernel))
        return q, lost, had

    if matrix.ndim == 2:
        return one((matrix, gram))
    batch = (x.reshape(-1, *x.shape[-2:]) for x in (matrix, gram))
    q, lost, had = jax.lax.map(one, tuple(batch))
    return q, jnp.sum(lost), jnp.sum(had)


@jax.jit
def _values(q: QTensor) -> Array:
    """Of one matrix, or of a stack of them."""
    return dequantize(q) if q.codes.ndim == 2 else jax.lax.map(dequantize, q)
