"""AC/DC: phases of sparse training between phases of dense training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from wlab import tree
from wlab.pruning.allocation import Allocation, uniform
from wlab.pruning.bits import Storage
from wlab.pruning.budget import Density, refuse_bad_density
from wlab.pruning.choosing import largest
from wlab.pruning.magnitude import MagnitudeState
from wlab.pruning.masking import packed, seen, zeroed
from wlab.pruning.shares import Share, budgets, pruned_shares
from wlab.transform import Key, Params, Step, WeightTransform


def alternating(
    density: Density,
    rules: tree.Rules[Share],
    *,
    warmup: int,
    sparse: int,
    dense: int,
    end: int,
    allocation: Allocation = uniform,
    storage: Storage = "bits",
) -> WeightTransform:
    """Trains a sparse network and a dense one in turn; from `end` on the sparse one.

    A sparse phase begins with the largest weights of the dense one before; those it drops start
    the next dense phase at zero, with zero moments under any optimizer; the moments of the others
    go on, which the paper's own program resets. Step 0 is dense in any case. One run gives a sparse
    network and, at the end of the last dense phase, a dense one.

    Args:
        density: The fraction kept in sparse phases.
        rules: As in `magnitude`, without patterns.
        warmup: Dense steps before the first sparse phase.
        sparse: Steps of a sparse phase.
        dense: Steps of a dense phase.
        end: The step from which the network stays sparse.
        allocation: As in `magnitude`.
        storage: As in `magnitude`.

    Raises:
        ValueError: If a density is outside [0, 1], a phase has no step, the warmup is negative or
            not over at the end; from `init` as `magnitude`.
        TypeError: As `magnitude`.

    Reference:
        Peste et al. 2021 (arXiv:2106.12379), algorithm 1.
    """
    refuse_bad_density(density)
    if sparse < 1 or dense < 1 or not 0 <= warmup <= end:
        raise ValueError(
            "alternating needs phases of at least 1 step and 0 <= warmup <= end; got "
            f"sparse={sparse}, dense={dense}, warmup={warmup}, end={end}."
        )

    def is_sparse(step: Step) -> Bool[Array, ""]:
        """Whether a step is trained sparse."""
        step = jnp.asarray(step)
        in_phase = (step - warmup) % (sparse + dense) < sparse
        return (step >= end) | ((step >= warmup) & in_phase)

    def init(params: Params, key: Key) -> tuple[Params, MagnitudeState]:
        del key
        shares, leaves = pruned_shares(rules, params, purpose="alternating"), tree.leaves(params)
        masks = {path: jnp.ones(jnp.shape(leaves[path]), bool) for path in shares}
        return params, MagnitudeState(packed(masks, storage))

    def update(
        stored: Params, grads: Params | None, state: MagnitudeState, step: Step
    ) -> MagnitudeState:
        del grads
        shares, leaves = pruned_shares(rules, stored, purpose="alternating"), tree.leaves(stored)
        shapes = {path: leaves[path].shape for path in shares}

        def compress() -> MagnitudeState:
            sizes = {path: jnp.abs(leaves[path]) for path in shares}
            masks = largest(sizes, budgets(shares, shapes, density, allocation))
            return MagnitudeState(packed(masks, storage))

        def decompress() -> MagnitudeState:
            masks = {path: jnp.ones(shape, bool) for path, shape in shapes.items()}
            return MagnitudeState(packed(masks, storage))

        # The masks of the first step are those of `init`.
        was, will = is_sparse(step) & (step > 0), is_sparse(jnp.asarray(step) + 1)
        case = jnp.where(was == will, 0, jnp.where(will, 1, 2))
        return jax.lax.switch(case, [lambda: state, compress, decompress])

    return WeightTransform(
        init,
        view=lambda stored, state, step: seen(stored, state.masks),
        project=lambda stored, state: zeroed(stored, state.masks),
        update=update,
        in_place=True,
    )
