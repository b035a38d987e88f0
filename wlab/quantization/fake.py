"""Quantization-aware training: the model sees weights on the grid, full ones are stored."""

from functools import partial

import jax
import jax.numpy as jnp

from wlab import tree
from wlab.quantization.arrays import check_gradient, round_to_grid
from wlab.quantization.formats import Format
from wlab.quantization.ranges import RangeFn, absmax
from wlab.quantization.trees import chosen_formats, leaf_key
from wlab.transform import LAST_STEP, Key, Params, State, Step, WeightTransform
from wlab.tree import Rules


def fake_quant(
    format: Format,
    rules: Rules[Format | bool | None],
    *,
    gradient: str = "pass_through",
    range_fn: RangeFn = absmax,
    begin: int | jax.Array = 0,
    stochastic: bool = False,
) -> WeightTransform:
    """Shows the chosen leaves rounded to their grid: bit for bit what `quantize_tree` writes.

    Behind a mask, zeros stay exactly zero. Shard so that groups stay whole: one that crosses
    shards costs an all-to-all of the leaf on an Explicit mesh, and a gather on an Auto one.

    Args:
        format: The format where a rule says True.
        rules: `(regex, value)`: True, a format of the leaf's own, or None to leave it alone.
        gradient: How the rounding is differentiated, see `round_to_grid`.
        range_fn: Where each grid ends, taken anew at every step.
        begin: Steps without rounding before it starts.
        stochastic: Rounds by chance, anew at every step and for every leaf, to one of the two
            grid points beside each weight, so that the mean is the weight; `finalize`, at the
            last step, rounds to the nearest.

    Raises:
        ValueError: If `gradient` is unknown or `begin` negative; from `init`, with TypeError,
            if the rules do not fit or a leaf cannot take its format.

    Reference:
        Jacob et al. 2018 (arXiv:1712.05877), section 3, for fake quantization in training.
    """
    check_gradient(gradient)
    if isinstance(begin, int) and begin < 0:
        raise ValueError(f"begin must be at least 0 steps, got {begin}.")

    def init(params: Params, key: Key) -> tuple[Params, State]:
        chosen_formats(rules, params, default=format)
        return params, key if stochastic else ()

    def rounded(stored: Params, key: Key | None = None) -> Params:
        leaves = tree.leaves(stored)
        rounded = partial(round_to_grid, gradient=gradient, range_fn=range_fn)
        new = {
            path: rounded(leaves[path], chosen, key=leaf_key(key, path))
            for path, chosen in chosen_formats(rules, stored, default=format).items()
        }
        return tree.replace(stored, new)

    def drawn(stored: Params, state: State, step: Step) -> Params:
        return jax.lax.cond(
            jnp.asarray(step) == LAST_STEP,
            lambda stored: rounded(stored),
            lambda stored: rounded(stored, jax.random.fold_in(state, step)),
            stored,
        )

    def view(stored: Params, state: State, step: Step) -> Params:
        shown = partial(drawn, state=state, step=step) if stochastic else rounded
        if isinstance(begin, int) and begin == 0:
            return shown(stored)
        return jax.lax.cond(step >= begin, shown, lambda same: same, stored)

    return WeightTransform(init=init, view=view)
