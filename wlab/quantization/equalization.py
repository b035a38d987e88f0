"""Cross-layer equalization: channels of consecutive layers get one range, without any data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wlab import graph, tree
from wlab.graph import Scaling
from wlab.quantization.channels import Uses, largest, of_rows, row_ranges, uses_of
from wlab.transform import Params


class Equalized(NamedTuple):
    """A network whose layers need no range of their own for each channel.

    Attributes:
        params: The tree, of the same function.
        scales: What each row of a leaf's matrix was multiplied with, by path.
        unmoved: Why other chosen leaves are as they were, by path.
        rounds: How often all layers were gone through.
    """

    params: Params
    scales: dict[str, Array]
    unmoved: dict[str, str]
    rounds: int


def equalize(
    fn: Callable[..., Any],
    params: Params,
    *inputs: Any,
    rules: tree.Rules[bool] = ((".*", True),),
    tolerance: float = 1e-3,
    rounds: int = 100,
) -> Equalized:
    r"""Makes the range of each channel the same in the layer that makes it and in those that read.

    $s_i = \sqrt{r^1_i r^2_i} / r^2_i$: the weights $W^1$ that make channel i, and their bias, are
    divided by it, those that read it, $W^2$, are multiplied, and both have the range
    $\sqrt{r^1_i r^2_i}$ then. All layers are gone through until no factor moves any more. A range
    is the largest magnitude; channels that a layer makes or reads with zeros alone stay as they
    are, and so do those whose factor only a norm can carry (fold it into the layer before).

    Args:
        fn: Of `params` and `inputs`.
        params: Any tree.
        inputs: Arrays, or their shapes: nothing is computed with them.
        rules: Ordered `(path regex, bool)`: which layers' inputs may be equalized.
        tolerance: A round in which no factor is further from 1 is the last.
        rounds: The most there are.

    Raises:
        ValueError: If the rules do not fit the tree, a number is out of range, or the function
            can't be traced.

    Reference:
        Nagel et al. 2019 (arXiv:1906.04721), section 4.1, equations 9 to 11.
    """
    if not tolerance > 0 or rounds < 1:
        raise ValueError(
            f"equalize takes a tolerance above 0 and at least 1 round; got {tolerance}, {rounds}."
        )
    chosen = tree.resolve(rules, params, purpose="equalize")
    read = graph.read(fn, params, *inputs)
    uses = uses_of(read)
    found, refused = graph.scalings(read, [path for path in uses if chosen[path]])
    unmoved = dict(refused)
    pairs = [one for one in found if _makers(one, uses)]
    for one in found:
        if one not in pairs:
            carriers = [part.path for part in one.producers]
            unmoved[one.path] = f"only {', '.join(carriers)} can carry factors of {one.path!r}."
    total = [np.ones(one.size, np.float32) for one in pairs]
    done, furthest = 0, np.inf
    while pairs and furthest > tolerance and done < rounds:
        furthest, done = 0.0, done + 1
        for i, one in enumerate(pairs):
            s = equalizing(*_ranges(params, one, uses))
            furthest = max(furthest, float(np.abs(s - 1).max()))
            params, total[i] = graph.rescale(params, one, s), total[i] * s
    scales = {
        part.path: jnp.asarray(of_rows(one, uses[part.path], s))
        for one, s in zip(pairs, total, strict=True)
        for part in one.consumers
        if part.path in uses
    }
    return Equalized(params, scales, unmoved, done)


def equalizing(
    made: Float[np.ndarray, " size"], read: Float[np.ndarray, " size"]
) -> Float[np.ndarray, " size"]:
    r"""$s = \sqrt{\mathrm{made} \cdot \mathrm{read}} / \mathrm{read}$, and 1 where either is 0.

    Args:
        made: The range of each channel's weights in the layer that makes it.
        read: In those that read it.
    """
    known = (made > 0) & (read > 0)
    r1, r2 = (np.where(known, r, 1).astype(np.float64) for r in (made, read))
    return np.where(known, np.sqrt(r1 * r2) / r2, 1).astype(np.float32)


def _makers(one: Scaling, uses: Uses) -> list[str]:
    """The producers that are weights of a product; biases and norms are not."""
    return [part.path for part in one.producers if part.path in uses]


def _ranges(
    params: Params, one: Scaling, uses: Uses
) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, " size"]]:
    """For each factor the largest weight that makes its channel, and the largest that reads it."""
    made, leaves = np.zeros(one.size + 1, np.float32), tree.leaves(params)
    for path in _makers(one, uses):
        leaf = np.abs(np.asarray(leaves[path], np.float32))
        factors = np.broadcast_to(-one.factors(path), leaf.shape)
        np.maximum.at(made, np.maximum(factors, 0), leaf)
    read = {part.path: part for part in one.consumers if part.path in uses}
    ranges = {path: row_ranges(params, uses[path]) for path in read}
    return made[1:], largest(one, uses, ranges)
