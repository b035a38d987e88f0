"""Learned step sizes: the scales of the grid that the model sees are trained with the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wlab import tree
from wlab.quantization.formats import Format
from wlab.quantization.lsq_core import (
    LearnedGrid,
    even_grid,
    in_bits,
    learned_quantize,
    learned_round,
    start_grid,
)
from wlab.quantization.sharding import resharded
from wlab.quantization.trees import chosen_formats
from wlab.transform import Key, Params, Step, Stored, WeightTransform
from wlab.tree import Rules
from wlab.tree.paths import Tree

_quantize = jax.jit(learned_quantize, static_argnums=2)


class LSQState(NamedTuple):
    """Where each grid starts, by path; what is learned is added to it."""

    start: dict[str, LearnedGrid]


def lsq(
    format: Format,
    rules: Rules[Format | bool | None],
    *,
    begin: int | jax.Array = 0,
    stages: Sequence[tuple[int, int]] = (),
) -> WeightTransform:
    r"""Shows the chosen leaves on grids whose scales are learned: LSQ, and LSQ+ with an offset.

    $v = \mathrm{clip}(\lfloor w/s \rceil, -Q_N, Q_P) \cdot s$ with one s for each block of the
    format, of a tensor, a channel or a group, and the gradients of `learned_round`: straight
    through for w, clipped, and $(\lfloor w/s \rceil - w/s) / \sqrt{n Q_P}$ for s. An asymmetric
    format learns an offset beside it, the value of code 0. Zeros of a mask before it stay zero,
    but on a grid that stores its minimum.

    s = s₀ + δ. The start s₀ lies in the state; δ is stored beside the weights, in float32, for
    `a/kernel` at `+/a/kernel/scale` (and `+/a/kernel/offset`), and starts at zero. Its gradient is
    that of s, so every optimizer trains s as if it were stored, but for weight decay, which draws
    s to s₀ and not to zero. Rules of an optimizer for matrices, as muon, must leave these out.

    s₀ is that of `start_grid`. With `begin` it is taken from the weights that are seen in the
    first rounded step, behind every mask; without, from those given to `init`, where zeros are
    left out but a mask to come is not known. Behind magnitude pruning begin when it has pruned.

    Args:
        format: The format where a rule says True; an even grid (`Integers`), scales as floats.
        rules: `(regex, value)`: True, a format of the leaf's own, or None to leave it alone.
            A leaf that starts at zero, as biases do, has no scale to start with: leave it out,
            or begin later.
        begin: Steps without rounding before it starts.
        stages: `(bits, end)`, as [(8, 500), (6, 900)]: the grids have 8 bits before step 500, 6
            before 900, and from then on those of their format. The scale that is learned is that
            of the format; what a stage makes of it is said at `in_bits`.

    Raises:
        ValueError: If the format's scales cannot be learned, `begin` is negative, or a stage has
            not 2 to 8 bits or ends before the one in front of it; from `init`, with TypeError, if
            the rules do not fit or a leaf cannot take its format.

    Reference:
        Esser et al. 2020 (arXiv:1902.08153), equations 1 to 5; Bhalgat et al. 2020
        (arXiv:2004.09576), for asymmetric formats.
    """
    even_grid(format)
    if isinstance(begin, int) and begin < 0:
        raise ValueError(f"begin must be at least 0 steps, got {begin}.")
    _check_stages(format, stages)
    late = not (isinstance(begin, int) and begin == 0)

    def init(params: Params, key: Key) -> tuple[Stored, LSQState]:
        del key
        start = _starts(params, _learned_formats(rules, params, format))
        return Stored(params, jax.tree.map(jnp.zeros_like, start)), LSQState(start)

    def view(stored: Stored, state: LSQState, step: Step) -> Params:
        def at(bits: int | None, stored: Stored) -> Params:
            formats = _learned_formats(rules, stored.params, format)
            return _rounded(stored, state, formats, bits)

        def rounded(stored: Stored) -> Params:
            if not stages:
                return at(None, stored)
            done = jnp.sum(jnp.asarray([end for _, end in stages]) <= step)
            branches = [partial(at, bits) for bits in (*(bits for bits, _ in stages), None)]
            return jax.lax.switch(done, branches, stored)

        if not late:
            return rounded(stored)
        return jax.lax.cond(step >= begin, rounded, lambda stored: stored.params, stored)

    def update(stored: Stored, grads: Params | None, state: LSQState, step: Step) -> LSQState:
        del grads

        def restarted() -> LSQState:
            start = _starts(stored.params, _learned_formats(rules, stored.params, format))
            return LSQState(jax.tree.map(resharded, start, state.start))

        return jax.lax.cond(step < begin, restarted, lambda: state)

    return WeightTransform(init, view, update=update if late else None)


def lsq_quantized(
    stored: Stored, state: LSQState, format: Format, rules: Rules[Format | bool | None]
) -> Tree:
    """Puts a QTensor in the place of each leaf that `lsq` rounds: what its view shows, packed.

    `dequantize_tree` of it is bit for bit that view. In a chain give the state of this member;
    masks before it leave `stored` as it is, and ties after it are not applied.

    Args:
        stored: Weights and what was learned.
        state: The state of the transform.
        format: As given to `lsq`.
        rules: As given to `lsq`.

    Raises:
        TypeError, ValueError: As `init` of `lsq`; ValueError too if the rules choose a leaf whose
            scale was not learned.
    """
    formats, leaves = _learned_formats(rules, stored.params, format), tree.leaves(stored.params)
    grids = _grids(stored, state, formats)
    new = {path: _quantize(leaves[path], grids[path], f) for path, f in formats.items()}
    return tree.replace(stored.params, new)


def _rounded(
    stored: Stored, state: LSQState, formats: Mapping[str, Format], bits: int | None
) -> Params:
    leaves, grids, new = tree.leaves(stored.params), _grids(stored, state, formats), {}
    for path, format in formats.items():
        grid = grids[path]
        if bits is not None:
            grid, format = in_bits(grid, format, bits)
        new[path] = learned_round(leaves[path], grid, format)
    return tree.replace(stored.params, new)


def _grids(
    stored: Stored, state: LSQState, formats: Mapping[str, Format]
) -> dict[str, LearnedGrid]:
    """The start of each grid and what was learned since."""
    for path in formats:
        if path not in stored.extra or path not in state.start:
            raise ValueError(
                f"lsq: {path!r} has a format but no learned scale; there are those of "
                f"{sorted(stored.extra)}. Use the rules that `init` was run with."
            )
    return {path: jax.tree.map(jnp.add, state.start[path], stored.extra[path]) for path in formats}


def _starts(params: Params, formats: Mapping[str, Format]) -> dict[str, LearnedGrid]:
    leaves = tree.leaves(params)
    return {path: start_grid(leaves[path], format) for path, format in formats.items()}


def _learned_formats(
    rules: Rules[Format | bool | None], params: Params, format: Format
) -> dict[str, Format]:
    formats = chosen_formats(rules, params, default=format)
    for path, chosen in formats.items():
        even_grid(chosen, f"The format of {path!r}")
    return formats


def _check_stages(format: Format, stages: Sequence[tuple[int, int]]) -> None:
    for bits, _ in stages:
        replace(even_grid(format), bits=bits)
    ends = [0, *(end for _, end in stages)]
    if any(end <= before for before, end in pairwise(ends)):
        raise ValueError(
            f"lsq: each stage ends after the one before it, the first after step 0; got "
            f"{list(stages)}, pairs of (bits, end)."
        )
