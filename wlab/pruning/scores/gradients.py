"""Scores from gradients of a loss: what would change without a weight.

`loss_fn(params, *batch)` is a scalar, `batches` a list of tuples. Gradients are compiled once,
taken batch by batch and averaged in float32; all batches count alike.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import tree
from wlab.calibration import Batches, refuse_bad_batches
from wlab.pruning.scores.score import Score, floats
from wlab.transform import Params

Loss: TypeAlias = Callable[..., Any]
ByPath: TypeAlias = dict[str, Float[Array, "..."]]


def taylor(loss_fn: Loss, batches: Batches) -> Score:
    """|w · ∂L/∂w|: what the loss changes by without the weight, to first order.

    Of units, Molchanov et al. sum the squares: square these before `unit_scores`. Of single
    weights that ranks alike.

    Args:
        loss_fn: Of `params` and the arrays of a batch.
        batches: Tuples of its arguments after `params`; read once a round.

    Raises:
        ValueError: If there is no batch.
        TypeError: If the batches are no list, or a batch is no tuple.

    Reference:
        Molchanov et al. 2019 (arXiv:1906.10771), section 3.
    """
    mean = _mean(_gradient(loss_fn), batches, "taylor")

    def score(params: Params) -> ByPath:
        weights = floats(params)
        return {path: jnp.abs(s) for path, s in _times(weights, mean(weights, params)).items()}

    return score


def snip(loss_fn: Loss, batches: Batches) -> Score:
    """|w · ∂L/∂w| at initialization: connection sensitivity, the score of `taylor`.

    The paper divides by the sum over all weights, which ranks them alike. Meant for one batch, at
    initialization, by `globally`.

    Args:
        loss_fn: As of `taylor`.
        batches: As of `taylor`.

    Raises:
        ValueError: As `taylor`.
        TypeError: As `taylor`.

    Reference:
        Lee et al. 2019 (arXiv:1810.02340), section 4.1.
    """
    return taylor(loss_fn, batches)


def grasp(loss_fn: Loss, batches: Batches) -> Score:
    """w · (H g): what the gradient's squared norm loses without the weight, halved.

    To first order; g and H are of the mean loss. The paper's score is −w · (H g), and it removes
    the largest of those: weights without which the gradient flow would grow. Here they are the
    smallest, below zero. The paper divides logits by a temperature of 200: a part of the loss.

    Args:
        loss_fn: As of `taylor`, and twice differentiable.
        batches: As of `taylor`; read twice a round.

    Raises:
        ValueError: As `taylor`.
        TypeError: As `taylor`.

    Reference:
        Wang et al. 2020 (arXiv:2002.07376), section 4 and algorithm 1.
    """
    gradient = _gradient(loss_fn)

    def product(weights: ByPath, params: Params, direction: ByPath, *batch: Any) -> ByPath:
        tangents = {path: d.astype(weights[path].dtype) for path, d in direction.items()}
        return jax.jvp(lambda w: gradient(w, params, *batch), (weights,), (tangents,))[1]

    mean, curved = _mean(gradient, batches, "grasp"), _mean(product, batches, "grasp")

    def score(params: Params) -> ByPath:
        weights = floats(params)
        return _times(weights, curved(weights, params, mean(weights, params)))

    return score


def fisher(loss_fn: Loss, batches: Batches) -> Score:
    """½ · F · w²: what the loss grows by at a minimum, if F is the diagonal of its Hessian.

    F = E (∂L_n/∂w)² over the examples n, each by itself: the diagonal of the empirical Fisher
    information. Optimal brain damage, without second derivatives. The gradients of all examples of
    a batch are in memory at once.

    Args:
        loss_fn: As of `taylor`; given one example, as a batch of one, it is that one's loss.
        batches: As of `taylor`; the first axis of every array is that of examples.

    Raises:
        ValueError: As `taylor`.
        TypeError: As `taylor`.

    Reference:
        LeCun et al. 1989, Optimal Brain Damage; Theis et al. 2018 (arXiv:1801.05787).
    """
    gradient = _gradient(loss_fn)

    def squares(weights: ByPath, params: Params, *batch: Any) -> ByPath:
        def of_one(example: Any) -> ByPath:
            return gradient(weights, params, *jax.tree.map(lambda x: x[None], example))

        found = jax.vmap(of_one)(batch)
        return {p: jnp.mean(jnp.square(g.astype(jnp.float32)), axis=0) for p, g in found.items()}

    mean = _mean(squares, batches, "fisher")

    def score(params: Params) -> ByPath:
        weights = floats(params)
        once = _times(weights, mean(weights, params))
        return {path: s / 2 for path, s in _times(weights, once).items()}

    return score


def _gradient(loss_fn: Loss) -> Callable[..., ByPath]:
    """Of the weights, a part of `params`, in whose place they are put."""

    def loss(weights: ByPath, params: Params, *batch: Any) -> Any:
        return loss_fn(tree.replace(params, weights), *batch)

    return jax.grad(loss)


def _mean(f: Callable[..., ByPath], batches: Batches, purpose: str) -> Callable[..., ByPath]:
    """`f(weights, …, *batch)`, averaged over the batches."""
    refuse_bad_batches(batches, purpose)

    def add(total: ByPath, *args: Any) -> ByPath:
        found = f(*args)
        return {path: sum_ + found[path].astype(jnp.float32) for path, sum_ in total.items()}

    added = jax.jit(add, donate_argnums=0)

    def mean(weights: ByPath, *args: Any) -> ByPath:
        total = {path: jnp.zeros(leaf.shape, jnp.float32) for path, leaf in weights.items()}
        for batch in batches:
            total = added(total, weights, *args, *batch)
        return {path: sum_ / len(batches) for path, sum_ in total.items()}

    return mean


def _times(weights: ByPath, by: ByPath) -> ByPath:
    return {path: leaf.astype(jnp.float32) * by[path] for path, leaf in weights.items()}
