"""An optimizer whose moments are kept in few bits."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from wlab import tree
from wlab.quantization.moment_arrays import Coded, dequantize_moment, quantize_moment
from wlab.quantization.moment_grids import Moment, moment_parts
from wlab.quantization.sharding import resharded
from wlab.tree import Rules, Table
from wlab.tree.paths import Tree, suffixes


class QuantizedMomentsState(NamedTuple):
    """An optimizer's state without its moments, and the moments.

    Codes and scales are keyed by the paths that the moments had, which end with the weight's: on
    a mesh they lie as the weight does.

    Attributes:
        rest: The optimizer's state, None where a moment was taken out.
        codes: See `Coded`.
        scales: Likewise.
        key: What is drawn from, if rounding is by chance.
        step: Updates done, if rounding is by chance.
    """

    rest: Any
    codes: dict[str, UInt8[Array, "..."]]
    scales: dict[str, Float[Array, "..."]]
    key: jax.Array | None
    step: Int[Array, ""] | None


def quantized_moments(
    optimizer: optax.GradientTransformation,
    bits: int = 8,
    *,
    rules: Rules[bool | None] = ((".*", True),),
    min_size: int = 4096,
    block_size: int | None = None,
    parts: Mapping[str, Moment] | None = None,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the moments of an optimizer in 8 or 4 bits; each update reads, uses, writes them.

    A moment is a leaf of the state whose path ends with a parameter's, whose shape is that
    parameter's, and whose field has a name in `parts`: `mu`, `nu` of Adam and its kin, `mu` of
    Lion and Muon, `trace` of momentum, `nu` of RMSProp. Everything else stays as it is: counts,
    factored statistics, gradients being accumulated, the iterates of schedule-free.

    Blocks lie along the last axis and end with it, so codes do not depend on how an array is
    cut over devices. Inside `shard_map`, where this sees its shard alone, the last axis of a
    shard must be whole or a multiple of the block.

    A weight that is exactly zero and has a gradient of exactly zero is pruned: its moments
    become zero, so that it begins anew when it comes back. This needs the parameters.

    Args:
        optimizer: Any optax transformation. Put what changes its hyperparameters
            (`inject_hyperparams`) around this, or inside.
        bits: 8 or 4; see `moment_parts`.
        rules: Which parameters' moments, by path; extra trainables are among them.
        min_size: Moments of fewer entries stay as they are.
        block_size: Entries with a common scale; 256 of 8 bits and 128 of 4 if None.
        parts: How the moments of a field are kept, in place of `moment_parts(bits)`; of fields
            that are missing they stay as they are.
        key: Rounds by chance, anew at each step. Unbiased in the root that is kept. Inside
            `shard_map` all shards draw alike.

    Raises:
        ValueError: If `bits` are neither 8 nor 4, or both `parts` and a `block_size` are given;
            from `init`, if a parameter has no rule, or a rule no parameter.

    Reference:
        Dettmers et al. 2021 (arXiv:2110.02861): blocks, and 4,096 entries as the least;
        Li, Chen, Zhu 2023 (arXiv:2309.01507): 4 bits.
    """
    if parts is not None and block_size is not None:
        raise ValueError("quantized_moments: with `parts` the blocks are theirs; no block_size.")
    kept = dict(moment_parts(bits, block_size=block_size) if parts is None else parts)
    wrapped = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
        inner = wrapped.init(params)
        wanted = tree.match(rules, tree.paths(params), purpose="quantized_moments")
        sizes = {path: leaf.size for path, leaf in tree.leaves(params).items()}
        chosen = {
            path: owner
            for path, owner in _owners(inner, params, kept).items()
            if wanted[owner] and sizes[owner] >= min_size
        }
        moments = {path: _moment(path, kept, chosen) for path in chosen}
        values = tree.leaves(inner)
        # They are constants, which XLA would round while it compiles, and slowly.
        fresh = jax.lax.optimization_barrier({path: values[path] for path in chosen})
        step = None if key is None else jnp.int32(0)
        return _written(tree.replace(inner, fresh), moments, key, step)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        known = updates if params is None else params
        like = jax.eval_shape(wrapped.init, known)
        owners = _owners(like, known, kept)
        moments = {path: _moment(path, kept, owners) for path in state.codes}
        dense = _read(state, moments, like)
        weights = tree.leaves(known)  # packing may have moved codes that were cut within a byte
        dense = {path: resharded(x, weights[owners[path]]) for path, x in dense.items()}
        inner = tree.replace(state.rest, dense)
        new, inner = wrapped.update(updates, inner, params, **extra)
        if params is not None:
            inner = _without_pruned(inner, {p: owners[p] for p in moments}, updates, params)
        step = None if state.step is None else state.step + 1
        return new, _written(inner, moments, state.key, step)

    return optax.GradientTransformationExtraArgs(init, update)


def moment_report(params: Tree, before: Any, after: Any) -> Table:
    """A row a parameter: bytes of the optimizer's state, before and after, and bits a weight.

    What belongs to no parameter is in the row "(other)"; a total.

    Args:
        params: The parameters, or their shapes.
        before: The optimizer's state, or its shapes (`jax.eval_shape(optimizer.init, params)`).
        after: The state of the optimizer with `quantized_moments` in it.
    """
    sizes = {path: leaf.size for path, leaf in tree.leaves(params).items()}
    columns = [_bytes_by_owner(state, sizes) for state in (before, after)]
    rows: list[tuple[Any, ...]] = [
        (path, *(found.get(path, 0) for found in columns), 8 * columns[1].get(path, 0) / size)
        for path, size in sizes.items()
    ]
    rows.append(("(other)", *(found.get(None, 0) for found in columns), None))
    totals = [sum(found.values()) for found in columns]
    rows.append(("total", *totals, 8 * totals[1] / sum(sizes.values())))
    return Table(("path", "before", "after", "bits"), tuple(rows))


def _bytes_by_owner(state: Any, sizes: Mapping[str, int]) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for path, leaf in tree.leaves(state).items():
        owner = tree.owner(path, sizes)
        found[owner] = found.get(owner, 0) + tree.leaf_bytes(leaf)
    return found


def _owners(inner: Any, params: Any, parts: Mapping[str, Moment]) -> dict[str, str]:
    """The parameter of each moment, by their paths."""
    weights = tree.leaves(params)

    def fits(path: str, leaf: Any) -> Iterator[str]:
        for owner in filter(weights.__contains__, suffixes(path)):
            if leaf.shape == weights[owner].shape and _field(path, owner) in parts:
                yield owner

    return {
        path: owner
        for path, leaf in tree.leaves(inner).items()
        if leaf.ndim > 0 and jnp.issubdtype(leaf.dtype, jnp.floating)
        for owner in [next(fits(path, leaf), None)]
        if owner is not None
    }


def _field(path: str, owner: str) -> str:
    return path.removesuffix(owner).rstrip("/").rpartition("/")[2]


def _moment(path: str, parts: Mapping[str, Moment], owners: Mapping[str, str]) -> Moment:
    return parts[_field(path, owners[path])]


def _read(
    state: QuantizedMomentsState, moments: Mapping[str, Moment], like: Any
) -> dict[str, Array]:
    shapes = tree.leaves(like)
    return {
        path: dequantize_moment(Coded(codes, state.scales[path]), moments[path], shapes[path])
        for path, codes in state.codes.items()
    }


def _written(
    inner: Any, moments: Mapping[str, Moment], key: jax.Array | None, step: Any
) -> QuantizedMomentsState:
    values = tree.leaves(inner)
    at = None if key is None else jax.random.fold_in(key, step)
    coded = {
        path: quantize_moment(
            values[path], moment, key=None if at is None else tree.path_key(at, path)
        )
        for path, moment in moments.items()
    }
    return QuantizedMomentsState(
        rest=tree.replace(inner, dict.fromkeys(coded)),
        codes={path: each.codes for path, each in coded.items()},
        scales={path: each.scale for path, each in coded.items()},
        key=key,
        step=step,
    )


def _without_pruned(inner: Any, owners: Mapping[str, str], grads: Any, params: Any) -> Any:
    values, slopes, weights = tree.leaves(inner), tree.leaves(grads), tree.leaves(params)

    def cleared(path: str, owner: str) -> Array:
        pruned = (weights[owner] == 0) & (slopes[owner] == 0)
        return jnp.where(pruned, 0, values[path])

    return tree.replace(inner, {path: cleared(path, owner) for path, owner in owners.items()})
