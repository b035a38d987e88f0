"""Exact selection of the largest tenth against `numpy.partition` of the same scores.

numpy only finds the threshold. The mask rows do more, and are held to the same bar. One row stands
against JAX's own sort, which runs where the scores are: on a GPU too; and one has N:M groups.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.bench import Bench, timed
from experiments.bench.pair import Thunk
from wlab import pruning

Select: TypeAlias = Callable[[jax.Array, int, jax.Array], jax.Array]

DENSITY = 0.1

SELECT: dict[str, Select] = {
    "threshold": lambda x, k, last: pruning.kth_threshold(x, k),
    "threshold-bracket": lambda x, k, last: pruning.kth_threshold(x, k, search=pruning.bracket),
    "threshold-near": lambda x, k, last: pruning.kth_threshold(x, k, search=pruning.near(last)),
    "mask": lambda x, k, last: pruning.topk_mask(x, k),
    "mask-bracket": lambda x, k, last: pruning.topk_mask(x, k, search=pruning.bracket),
    "mask-near": lambda x, k, last: pruning.topk_mask(x, k, search=pruning.near(last)),
}
LARGE = ("threshold-bracket", "threshold-near", "mask-bracket", "mask-near")


def benches(side: int = 2048, large_side: int = 8192) -> list[Bench]:
    """A row for each search on side × side scores (4.2M), fewer on the large array (67M)."""
    small = [_bench(f"{name}-4M", SELECT[name], side, None) for name in SELECT]
    large = [_bench(f"{name}-64M", SELECT[name], large_side, 10) for name in LARGE]
    sort = Bench(
        "threshold-vs-sort-4M", "jnp.sort", 1.0, timed(lambda: against_sort(side), at_most=20)
    )
    groups = Bench("2-of-4-vs-argsort-4M", "jnp.argsort", 0.05, timed(lambda: groups_of_four(side)))
    return [*small, *large, sort, groups]


def _bench(name: str, select: Select, side: int, at_most: int | None) -> Bench:
    measure = timed(lambda: against_numpy(select, side), at_most=at_most)
    return Bench(name, "numpy.partition", 1.0, measure)


def against_numpy(select: Select, side: int) -> tuple[Thunk, Thunk]:
    """The compiled selection and numpy's, on the magnitudes of side × side normal weights.

    The threshold of the earlier call is that of the weights before they moved by 1 %.
    """
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((side, side), np.float32)
    k = int(pruning.kept(weights.size, DENSITY))
    last = jnp.asarray(np.partition(np.abs(weights).reshape(-1), -k)[-k])
    weights += np.float32(0.01) * rng.standard_normal((side, side), np.float32)
    scores, flat = jnp.abs(jnp.asarray(weights)), np.abs(weights).reshape(-1)
    compiled = jax.jit(lambda x, last: select(x, k, last))
    return lambda: compiled(scores, last), lambda: np.partition(flat, -k)


def against_sort(side: int) -> tuple[Thunk, Thunk]:
    """The compiled search and a compiled sort, on the magnitudes of side × side normal weights."""
    weights = np.random.default_rng(0).standard_normal((side, side), np.float32)
    scores, k = jnp.abs(jnp.asarray(weights)), int(pruning.kept(weights.size, DENSITY))
    search = jax.jit(lambda x: pruning.kth_threshold(x, k))
    sort = jax.jit(lambda x: jnp.sort(x.reshape(-1))[-k])
    return lambda: search(scores), lambda: sort(scores)


def groups_of_four(side: int) -> tuple[Thunk, Thunk]:
    """2:4 masks of side × side scores by counting, and by sorting every four neighbours twice."""
    weights = np.random.default_rng(0).standard_normal((side, side), np.float32)
    scores = jnp.abs(jnp.asarray(weights))

    def by_rank(x: jax.Array) -> jax.Array:
        order = jnp.argsort(-x.reshape(-1, 4), axis=-1)
        return (jnp.argsort(order, axis=-1) < 2).reshape(x.shape)

    count = jax.jit(lambda x: pruning.nm_mask(x, keep=2, of=4))
    sort = jax.jit(by_rank)
    return lambda: count(scores), lambda: sort(scores)
