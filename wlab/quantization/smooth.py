"""SmoothQuant: outliers of activations move into weights, without changing the function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import calibration, graph, tree
from wlab.calibration import Batches
from wlab.quantization.channels import largest, of_rows, row_ranges, uses_of
from wlab.transform import Params


class Smoothed(NamedTuple):
    """A network whose activations are easier to write in few bits.

    Attributes:
        params: The tree, of the same function.
        scales: What each row of a leaf's matrix was multiplied with, by path; its inputs are
            divided by that.
        unmoved: Why other chosen leaves are as they were, by path.
    """

    params: Params
    scales: dict[str, Array]
    unmoved: dict[str, str]


def smooth(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    rules: tree.Rules[bool],
    *,
    alpha: float = 0.5,
    report: Callable[[int], None] = lambda done: None,
) -> Smoothed:
    r"""Divides each input of a layer by a factor, and multiplies its weights by it.

    $s_j = \max |X_j|^\alpha / \max |W_j|^{1 - \alpha}$, with the largest weight of all leaves
    that read the same inputs. What makes the inputs is divided: a norm's scale, the weights before
    an activation that hands factors on, the values of attention (see `graph.scaling`). Inputs that
    are always zero, and those without weights, keep the factor 1.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        rules: Ordered `(path regex, bool)`: whose inputs are smoothed.
        alpha: How much of the difficulty moves into the weights: 0 to 1.
        report: Called with the number of batches done.

    Raises:
        ValueError: If alpha is out of range, the rules do not fit the tree or choose nothing, or
            as `calibration.collect`.
        TypeError: If the batches are no list, or a batch is no tuple.

    Reference:
        Xiao et al. 2022 (arXiv:2211.10438), equation 4.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"smooth: alpha is a part of the difficulty, 0 to 1; got {alpha}.")
    chosen = [p for p, on in tree.resolve(rules, params, purpose="smooth").items() if on]
    if not chosen:
        raise ValueError(f"smooth: the rules select none of the leaves {tree.paths(params)}.")
    calibration.refuse_bad_batches(batches, "smooth")
    read = graph.read(fn, params, *batches[0])
    uses, (found, refused) = uses_of(read), graph.scalings(read, chosen)
    wanted = {p for one in found for p in chosen if p in {part.path for part in one.consumers}}
    scales: dict[str, Array] = {}
    if not wanted:
        return Smoothed(params, scales, dict(refused))
    seen = calibration.collect(
        *(fn, params, batches, calibration.absmax()),
        where=lambda use: use.path in wanted,
        report=report,
    )
    for one in found:
        readers = [part.path for part in one.consumers if part.path in uses]
        ranges = {path: row_ranges(params, uses[path]) for path in readers}
        inputs = largest(one, uses, {path: seen[path] for path in readers if path in wanted})
        s = smoothing(inputs, largest(one, uses, ranges), alpha)
        params = graph.rescale(params, one, s)
        scales |= {path: jnp.asarray(of_rows(one, uses[path], s)) for path in readers}
    return Smoothed(params, scales, dict(refused))


def smoothing(
    inputs: Float[np.ndarray, " size"], weights: Float[np.ndarray, " size"], alpha: float
) -> Float[np.ndarray, " size"]:
    r"""$s = \mathrm{inputs}^\alpha / \mathrm{weights}^{1 - \alpha}$, and 1 where either is 0.

    Args:
        inputs: The largest magnitude of each.
        weights: That of the weights it is multiplied with.
        alpha: 0 to 1.
    """
    known = (inputs > 0) & (weights > 0)
    x, w = (np.where(known, of, 1).astype(np.float64) for of in (inputs, weights))
    return np.where(known, x**alpha / w ** (1 - alpha), 1).astype(np.float32)
