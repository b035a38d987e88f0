"""SynFlow: a score before training that needs no data."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from wlab import tree
from wlab.pruning.scores.score import Score, floats
from wlab.transform import Params


def synflow(fn: Callable[..., Any], inputs: Sequence[Any], *, size: float = 1.0) -> Score:
    """What flows through a weight from inputs of one, if all weights are positive: |w| · ∂R/∂|w|.

    R = Σ fn(|params|, 1). Of a network that is linear but for ReLU, without biases, the scores
    into a hidden unit sum to the scores out of it. Meant for many rounds: the paper takes 100,
    by `globally`, and without them whole layers are lost.

    Args:
        fn: Of `params` and inputs; logits, not probabilities, in evaluation mode.
        inputs: Arrays or shapes; floating-point ones are replaced by ones.
        size: What the inputs are instead of one, where R leaves the range of floats.

    Raises:
        TypeError: If the inputs are no tuple or list.
        ValueError: From the score, if R is not positive and finite (not seen under jit).

    Reference:
        Tanaka et al. 2020 (arXiv:2006.05467), theorem 1 and algorithm 1.
    """
    if not isinstance(inputs, tuple | list):
        raise TypeError(
            "synflow: inputs are a tuple, as (images,), whose items go to the function one by one; "
            f"got {type(inputs).__name__}."
        )
    ones = jax.tree.map(lambda x: _filled(x, size), tuple(inputs))

    def flow(sizes: dict[str, Array], params: Params, *ones: Any) -> Array:
        return jnp.sum(fn(tree.replace(params, sizes), *ones))

    through = jax.jit(jax.value_and_grad(flow))

    def score(params: Params) -> dict[str, Float[Array, "..."]]:
        sizes = {path: jnp.abs(leaf) for path, leaf in floats(params).items()}
        total, slopes = through(sizes, params, *ones)
        _refuse_no_flow(total)
        single = jnp.float32
        return {path: s.astype(single) * slopes[path].astype(single) for path, s in sizes.items()}

    return score


def _filled(x: Any, size: float) -> Any:
    return jnp.full(x.shape, size, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _refuse_no_flow(total: Array) -> None:
    if not isinstance(total, Tracer) and not 0 < float(total) < jnp.inf:
        raise ValueError(
            f"synflow: the flow is {float(total)}: a layer is empty, or the product of the layers "
            "leaves the range of floats. For the latter, pass a smaller or larger `size`."
        )
