"""AWQ: magnifies the weights of large inputs before it rounds, so that they lose less."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import calibration, graph, tree
from wlab.calibration import Batches, Gram, Report
from wlab.graph import Scaling, Statistic
from wlab.quantization.arrays import dequantize, quantize
from wlab.quantization.awq_core import (
    Reader,
    Searched,
    awq_clip,
    awq_scale,
    refuse_other_axes,
)
from wlab.quantization.channels import Uses, averages, matrix_of, of_rows, uses_of
from wlab.quantization.formats import Format, check_leaf
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn, absmax
from wlab.transform import Params


class AWQ(NamedTuple):
    """A network written in few bits.

    Attributes:
        params: The tree: rounded leaves have their values, and those that carry a scale's inverse
            are divided.
        matrices: The codes of each rounded leaf, as a matrix of inputs by outputs (or a stack of
            them), by path.
        losses: ‖X(W − Ŵ)‖² / ‖XW‖² of each, of the scaled weights and inputs.
        scales: What each row of a leaf's matrix was multiplied with, by path.
        powers: α of each turn of the loops around a leaf, by path.
        unmoved: Why the other leaves were only rounded, by path.
        moved: The channels that were scaled, and by what: one after the other, `graph.rescale`
            makes of the tree before the one that was rounded.
    """

    params: Params
    matrices: dict[str, QTensor]
    losses: dict[str, float]
    scales: dict[str, Array]
    powers: dict[str, list[float]]
    unmoved: dict[str, str]
    moved: list[tuple[Scaling, Float[np.ndarray, " size"]]]


class Inputs(NamedTuple):
    """What is kept of a leaf's inputs.

    Attributes:
        gram: XᵀX and the number of rows.
        sizes: Σ|x|.
    """

    gram: Gram
    sizes: Float[Array, "*batch features"]


class _Found(NamedTuple):
    scales: dict[str, Array]
    powers: dict[str, list[float]]
    unmoved: dict[str, str]
    moved: list[tuple[Scaling, Float[np.ndarray, " size"]]]
    matrices: dict[str, QTensor]
    losses: dict[str, float]


def awq(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    rules: tree.Rules[Format | None],
    *,
    grid: int = 20,
    clip: bool = False,
    range_fn: RangeFn = absmax,
    stages: Sequence[str] = (".*",),
    report: Report = lambda stage, done: None,
) -> AWQ:
    r"""Scales inputs by a power of their mean magnitude, then rounds weights to the nearest code.

    $s = \mathrm{E}|x|^\alpha$ multiplies a leaf's rows, and whatever makes its inputs is divided,
    so that the function does not change; α is that of the least loss, for all leaves together that
    read the same inputs (see `awq_scale`). A leaf whose inputs nothing can divide, as told by
    `graph.scaling`, is only rounded. Needs XᵀX of every leaf of a stage, in float32, at once.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`; read once a stage.
        rules: Ordered `(path regex, format)`; None leaves a leaf as it is, but for a scale it may
            have to carry. Formats are of the leaf as a matrix of inputs by outputs.
        grid: How many powers are tried, from 0 on; 0 is plain rounding.
        clip: Whether the largest weights of a block are then cut off where that loses less
            (see `awq_clip`).
        range_fn: See `quantize`.
        stages: Path regexes, in the order in which the function comes to the leaves. The leaves
            of a stage see inputs that earlier stages have already changed.
        report: Called with a stage and the number of its batches done.

    Raises:
        ValueError: If the rules do not fit the tree, a rule chooses a leaf that is in no product or
            is no matrix there, the stages miss a leaf or have none, `grid` is below 1, blocks to be
            clipped span outputs, or as `calibration.collect`.
        TypeError: If a leaf cannot take its format, the batches are no list or one is no tuple.

    Reference:
        Lin et al. 2023 (arXiv:2306.00978).
    """
    formats = _formats(params, rules, grid=grid, clip=clip)
    calibration.refuse_bad_batches(batches, "awq")
    read = graph.read(fn, params, *batches[0])
    uses, (scalings, refused) = uses_of(read), graph.scalings(read, formats)
    _refuse(params, formats, uses)
    stage_of = tree.match([(s, s) for s in stages], [*formats], purpose="awq, stages")
    told = _Found({}, {}, dict(refused), [], {}, {})
    for stage in stages:
        now = {path: formats[path] for path in formats if stage_of[path] == stage}
        seen = calibration.collect(
            *(fn, params, batches, _inputs()),
            where=lambda use, now=now: use.path in now,
            report=lambda done, stage=stage: report(stage, done),
        )
        for one in scalings:
            params = _scaled(params, one, uses, now, seen, told, grid=grid, range_fn=range_fn)
        new = {}
        for path, format in now.items():
            matrix, gram = matrix_of(params, uses[path]), seen[path].gram.products
            values, q, loss = _written(matrix, gram, format, clip=clip, range_fn=range_fn)
            told.matrices[path], told.losses[path] = q, loss
            dtype = tree.leaves(params)[path].dtype
            new[path] = graph.from_matrix(uses[path], values.astype(dtype))
        params = tree.replace(params, new)
    return AWQ(params, told.matrices, told.losses, *told[:4])


def _inputs() -> Statistic:
    gram = calibration.gram()

    def measure(x: Array) -> Inputs:
        return Inputs(gram.measure(x), jnp.sum(jnp.abs(x.astype(jnp.float32)), axis=-2))

    return Statistic(measure)


def _scaled(
    params: Params,
    one: Scaling,
    uses: Uses,
    now: Mapping[str, Format],
    seen: dict[str, Inputs],
    told: _Found,
    **options: Any,
) -> Params:
    """With the best factors of one scaling, and what was seen as it is then."""
    readers = [part.path for part in one.consumers if part.path in now]
    if not readers:
        return params
    late = [part.path for part in one.parts if part.path in told.matrices]
    if late:
        reason = f"{late[0]!r}, which would have to be scaled, was rounded in an earlier stage."
        told.unmoved.update(dict.fromkeys(readers, reason))
        return params
    found = _searched(params, one, uses, {path: now[path] for path in readers}, seen, **options)
    s = np.asarray(found.scale).reshape(-1)
    for path in readers:
        rows = of_rows(one, uses[path], s)
        seen[path] = _divided(seen[path], rows)
        told.scales[path] = jnp.asarray(rows)
        told.powers[path] = np.asarray(found.power).tolist()
    told.moved.append((one, s))
    return graph.rescale(params, one, s)


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
    **options: Any,
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
    return _search(readers, mean, formats=tuple(formats.values()), **options)


@partial(jax.jit, static_argnames=("formats", "grid", "range_fn"))
def _search(
    readers: Sequence[tuple[Array, Array, Array]],
    mean: Array,
    *,
    formats: tuple[Format, ...],
    **options: Any,
) -> Searched:
    """Turn by turn."""
    turns = [
        Reader(*(x.reshape(*rows.shape[:2], *x.shape[-2:]) for x in arrays), rows=rows)
        for *arrays, rows in readers
    ]
    return jax.lax.map(lambda turn: awq_scale(turn[0], formats, turn[1], **options), (turns, mean))


def _written(
    matrix: Array, gram: Array, format: Format, **options: Any
) -> tuple[Array, QTensor, float]:
    """A leaf's matrices rounded: their values, their codes, and what was lost."""
    values, q, lost, had = _round(matrix, gram, format=format, **options)
    return values, q, float(lost) / float(had) if had else 0.0


@partial(jax.jit, static_argnames=("format", "clip", "range_fn"))
def _round(
    matrix: Array, gram: Array, *, format: Format, clip: bool, range_fn: RangeFn
) -> tuple[Array, QTensor, Array, Array]:
    def one(pair: tuple[Array, Array]) -> tuple[Array, QTensor, Array, Array]:
        kernel, products = pair
        cut = awq_clip(kernel, products, format, range_fn=range_fn) if clip else kernel
        q = quantize(cut, format, range_fn=range_fn)
        values = dequantize(q)
        lost, had = (calibration.energy(x, products) for x in (kernel - values, kernel))
        return values, q, lost, had

    if matrix.ndim == 2:
        return one((matrix, gram))
    batch = (x.reshape(-1, *x.shape[-2:]) for x in (matrix, gram))
    values, q, lost, had = jax.lax.map(one, tuple(batch))
    return values.reshape(matrix.shape), q, jnp.sum(lost), jnp.sum(had)


def _formats(
    params: Params, rules: tree.Rules[Format | None], *, grid: int, clip: bool
) -> dict[str, Format]:
    """The format of each leaf that has one."""
    if grid < 1:
        raise ValueError(f"awq: grid is a number of powers, at least 1; got {grid}.")
    chosen = tree.resolve(rules, params, purpose="awq")
    formats = {path: format for path, format in chosen.items() if format}
    if not formats:
        raise ValueError(f"awq: the rules select none of the leaves {tree.paths(params)}.")
    for format in formats.values() if clip else ():
        refuse_other_axes(format)
    return formats


def _refuse(params: Params, formats: Mapping[str, Format], uses: Uses) -> None:
    leaves = tree.leaves(params)
    for path, format in formats.items():
        if path not in uses:
            raise ValueError(
                f"awq: {path!r} is in no product with anything that depends on the inputs, so its "
                "weights have none to be scaled by. Leave it alone by a rule."
            )
        matrix = jax.eval_shape(partial(graph.to_matrix, uses[path]), leaves[path])
        check_leaf(jax.ShapeDtypeStruct(matrix.shape[-2:], matrix.dtype), format, repr(path))
