"""AWQ: magnifies the weights of large inputs before it rounds, so that they lose less."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import calibration, graph, tree
from wlab.calibration import Batches, Collected, Finished, Report
from wlab.graph import Scaling
from wlab.quantization.awq_core import refuse_other_axes
from wlab.quantization.awq_stages import (
    Options,
    Stage,
    applied,
    arrays_of,
    inputs,
    readers_of,
    solved,
    stage_of,
)
from wlab.quantization.channels import Uses, of_rows, uses_of
from wlab.quantization.formats import Format, check_leaf, refuse_no_format
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn, absmax
from wlab.transform import Params


class AWQ(NamedTuple):
    """A network written in few bits.

    Attributes:
        params: The tree: rounded leaves have their values, and those that carry a scale's inverse
            are divided; with `codes_only` as it was given.
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
    finished: Finished | None = None,
    codes_only: bool = False,
) -> AWQ:
    r"""Scales inputs by a power of their mean magnitude, then rounds weights to the nearest code.

    $s = \mathrm{E}|x|^\alpha$ multiplies a leaf's rows, and whatever makes its inputs is divided,
    so that the function does not change; α is that of the least loss, for all leaves together that
    read the same inputs (see `awq_scale`). A leaf whose inputs nothing can divide, as told by
    `graph.scaling`, is only rounded. Needs XᵀX of every leaf of a stage, in float32, at once.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        rules: Ordered `(path regex, format)`; None leaves a leaf as it is, but for a scale it may
            have to carry. Formats are of the leaf as a matrix of inputs by outputs.
        grid: How many powers are tried, from 0 on; 0 is plain rounding.
        clip: Whether the largest weights of a block are then cut off where that loses less
            (see `awq_clip`).
        range_fn: See `quantize`.
        stages: Path regexes, in the order in which the function comes to the leaves. The leaves
            of a stage see inputs that earlier stages have already changed.
        report: Called with a stage and the number of its batches done.
        finished: Keeps the stages that are done, as `checkpoint.finished_in(folder)`: a run that
            was cut off goes on behind them.
        codes_only: Whether no tree with the values of the codes is wanted: none is held then, as
            by `gptq`.

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
    read = graph.read_uncalled(fn, params, *batches[0])
    uses, scalings = uses_of(read), graph.scalings(read, formats)
    _refuse(params, formats, uses)
    paths = calibration.staged(stages, [*formats], "awq")
    formats_in = {stage: {path: formats[path] for path in paths[stage]} for stage in paths}
    due, late = _due(scalings.found, paths)
    options, keeper = Options(grid, clip, range_fn), finished or calibration.NOWHERE
    asked = (params, batches, "awq", formats, paths, *options)
    of = "" if finished is None else calibration.fingerprint(*asked)
    told = AWQ(params, {}, {}, {}, {}, dict(scalings.refused) | late, [])

    def take(params: Params, stage: str, done: Stage) -> Params:
        for one, s, power in zip(due[stage], done.factors, done.powers, strict=True):
            for path in readers_of(one, formats_in[stage]):
                told.scales[path] = jnp.asarray(of_rows(one, uses[path], s))
                told.powers[path] = power.tolist()
            told.moved.append((one, s))
        told.matrices.update(done.codes)
        told.losses.update(done.losses)
        return applied(params, due[stage], uses, done)

    def known(params: Params, stage: str) -> Params | None:
        arrays = keeper.load(stage, of)
        if arrays is None:
            return None
        return take(params, stage, stage_of(arrays, params, due[stage], uses, formats_in[stage]))

    def changed(params: Params, stage: str, seen: Collected) -> Params:
        done = solved(params, due[stage], uses, formats_in[stage], seen, options)
        keeper.save(stage, of, arrays_of(done))
        return take(params, stage, done)

    params = calibration.in_stages(
        *(read, params, batches, inputs(), paths, changed, report),
        known=known,
        along={stage: [p.path for one in due[stage] for p in one.parts] for stage in paths},
        hold=not codes_only,
    )
    return told._replace(params=params)


def _due(
    scalings: Sequence[Scaling], stages: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[Scaling]], dict[str, str]]:
    """The scalings of each stage; and of leaves that are too late for theirs, why, by path."""
    at = {path: i for i, paths in enumerate(stages.values()) for path in paths}
    due: dict[str, list[Scaling]] = {stage: [] for stage in stages}
    unmoved: dict[str, str] = {}
    for one in scalings:
        for i, (stage, paths) in enumerate(stages.items()):
            readers = [part.path for part in one.consumers if part.path in paths]
            late = [part.path for part in one.parts if at.get(part.path, i) < i]
            if readers and late:
                reason = (
                    f"{late[0]!r}, which would have to be scaled, was rounded in an earlier stage."
                )
                unmoved |= dict.fromkeys(readers, reason)
            elif readers:
                due[stage].append(one)
    return due, unmoved


def _formats(
    params: Params, rules: tree.Rules[Format | None], *, grid: int, clip: bool
) -> dict[str, Format]:
    """The format of each leaf that has one."""
    if grid < 1:
        raise ValueError(f"awq: grid is a number of powers, at least 1; got {grid}.")
    chosen = tree.resolve(rules, params, purpose="awq")
    formats = {path: format for path, format in chosen.items() if format is not None}
    for path, format in formats.items():
        refuse_no_format(format, f"awq: the rule for {path!r}")
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
