"""GPTQ: writes a trained network in few bits, and lets later inputs make up for earlier ones."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wlab import calibration, tree
from wlab.calibration import Batches, Finished, Gram, Report, Told
from wlab.quantization import kept_codes
from wlab.quantization.arrays import dequantize
from wlab.quantization.formats import Format, check_leaf, refuse_no_format
from wlab.quantization.gptq_core import Groups, Rounded, activity_order, gptq_core
from wlab.quantization.qtensor import QTensor
from wlab.quantization.ranges import RangeFn, absmax
from wlab.transform import Params


class GPTQ(NamedTuple):
    """A network written in few bits.

    Attributes:
        params: The tree, as it was given but for the values of its rounded leaves; with
            `codes_only` as it was given.
        matrices: The codes of each of those, as a matrix of inputs by outputs (or a stack of
            them), by path. A leaf that is one has them in its own shape.
        losses: ‖X(W − Ŵ)‖² / ‖XW‖² of each, by path.
    """

    params: Params
    matrices: dict[str, QTensor]
    losses: dict[str, float]


def gptq(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    rules: tree.Rules[Format | None],
    *,
    damping: float = 0.01,
    act_order: bool = False,
    groups: Groups = "dynamic",
    block: int = 128,
    range_fn: RangeFn = absmax,
    stages: Sequence[str] = (".*",),
    report: Report = lambda stage, done: None,
    finished: Finished | None = None,
    codes_only: bool = False,
) -> GPTQ:
    """Rounds weights input by input, and changes later ones so that outputs move least.

    Works on any function of parameters and inputs: which axes of a leaf are inputs is read from
    it. Weights that are zero stay zero, so that what was pruned stays pruned. Needs XᵀX of every
    leaf of a stage, in float32, at once.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        rules: Ordered `(path regex, format)`; None leaves a leaf as it is. Formats are of the
            leaf as a matrix of inputs by outputs, so that axis -2 is the inputs.
        damping: Added to the diagonal of XᵀX, as a part of its mean. If that has still no inverse,
            ten times as much is tried, with a warning, up to 1.
        act_order: Inputs with the largest Σx² first; grids are then fitted beforehand.
        groups: When a group's grid is fitted, as in `gptq_core`.
        block: Inputs whose errors are applied to later ones at once.
        range_fn: See `quantize`.
        stages: Path regexes, in the order in which the function comes to the leaves. The leaves
            of a stage see inputs that earlier stages have already changed; by default all are
            rounded at once, from one pass.
        report: Called with a stage and the number of its batches done.
        finished: Keeps the stages that are done, as `checkpoint.finished_in(folder)`: a run that
            was cut off goes on behind them.
        codes_only: Whether no tree with the values of the codes is wanted: none is held then, and
            memory is that of `params`, the codes, and what two stages need.

    Raises:
        ValueError: If the rules do not fit the tree, a rule chooses a leaf that is in no product or
            is no matrix there, the stages miss a leaf or have none, a leaf gets no inputs but
            zeros, XᵀX has no inverse with any damping, or as `calibration.collect`.
        TypeError: If a leaf cannot take its format, the batches are no list or one is no tuple.

    Reference:
        Frantar et al. 2022 (arXiv:2210.17323).
    """
    calibration.refuse_bad_damping(damping, block, purpose="gptq")
    for path, format in tree.resolve(rules, params, purpose="gptq").items():
        if format is not None:
            refuse_no_format(format, f"gptq: the rule for {path!r}")
    options = {"groups": groups, "block": block, "range_fn": range_fn}

    def change(path: str, matrix: Array, seen: Gram, format: Format) -> tuple[Array, Any]:
        check_leaf(jax.ShapeDtypeStruct(matrix.shape[-2:], matrix.dtype), format, repr(path))
        if not bool(jnp.any(seen.products != 0)):
            raise ValueError(f"gptq: all inputs of {path!r} are zero in this data.")
        matrices = matrix.reshape(-1, *matrix.shape[-2:]).astype(jnp.float32)
        grams = seen.products.reshape(-1, *seen.products.shape[-2:])
        found, lost, had = [], 0.0, 0.0
        for kernel, gram in zip(matrices, grams, strict=True):
            order = activity_order(gram) if act_order else None
            ordered = gram if order is None else gram[order][:, order]
            factor = calibration.damped_factor(ordered, damping, path=path, purpose="gptq")
            q, _ = _round(kernel, factor, order, format=format, **options)
            found.append(q)
            lost += float(calibration.energy(kernel - dequantize(q), gram))
            had += float(calibration.energy(kernel, gram))
        q = jax.tree.map(lambda *parts: _stacked(parts, matrix.ndim), *found)
        new = jnp.stack([dequantize(q) for q in found]).reshape(matrix.shape)
        return new.astype(matrix.dtype), (q, lost / had if had else 0.0)

    rounded, told = calibration.by_inputs(
        *(fn, params, batches, rules, calibration.gram(), change),
        stages=stages,
        report=report,
        finished=finished,
        told_in=_TOLD,
        asked=(damping, act_order, groups, block, range_fn),
        purpose="gptq",
        hold=not codes_only,
    )
    return GPTQ(rounded, *({path: of[i] for path, of in told.items()} for i in (0, 1)))


def _read(
    path: str, old: Array, new: Array, arrays: Mapping[str, Any], format: Format
) -> tuple[QTensor, float]:
    del path, new
    return kept_codes.read(arrays, format, old.shape[-1])


_TOLD = Told(kept_codes.NAMES, lambda told: kept_codes.written(*told), _read)


def _stacked(parts: Sequence[Array], ndim: int) -> Array:
    return parts[0] if ndim == 2 else jnp.stack(parts)


@partial(jax.jit, static_argnames=("format", "groups", "block", "range_fn"))
def _round(kernel: Array, factor: Array, order: Array | None, **options: Any) -> Rounded:
    return gptq_core(kernel, factor, options.pop("format"), order=order, **options)
