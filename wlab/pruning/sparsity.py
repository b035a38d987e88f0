"""What is left of a network: weights, dead inputs and outputs, bytes and multiply-adds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wlab import graph, tree
from wlab.pruning.forms import NM, Bitmask, packed_bytes
from wlab.pruning.shares import Share, is_pruned, matrices
from wlab.transform import Params

_FORMS = tuple(NM(keep, 4, axis) for keep in (1, 2) for axis in (-2, -1))
_COSTS = ("multiply_adds", "multiply_adds_left", "outputs")


class LeafSparsity(NamedTuple):
    """What is left of a leaf.

    Attributes:
        shape: Of the leaf.
        weights: All entries.
        kept: Those that are not zero.
        dead_inputs: Places on the last axis but one without a weight; None of a vector.
        dead_outputs: Places on the last axis without a weight; None of a vector.
        bytes: As it is.
        bytes_bitmask: With a bit an entry, and the values that are kept.
        fits: What holds of every four neighbours, as "2:4, axis -2", if N is 1 or 2.
        bytes_nm: In that form.
        bytes_packed: The fewest of these.
    """

    shape: tuple[int, ...]
    weights: int
    kept: int
    dead_inputs: int | None
    dead_outputs: int | None
    bytes: int
    bytes_bitmask: int
    fits: str | None
    bytes_nm: int | None
    bytes_packed: int


def leaf_sparsity(array: Any) -> LeafSparsity:
    """Counts what is left of an array, on the host.

    Bytes are true: an entry of −0.0 is no weight, and yet is written out.
    """
    array = np.asarray(array)
    alive, nbytes = np.asarray(array != 0), tree.leaf_bytes(array)
    bitmask = packed_bytes(array, Bitmask()) or 0
    sizes = ((form, packed_bytes(array, form)) for form in _FORMS)
    form, places = next(((f, size) for f, size in sizes if size is not None), (None, None))
    return LeafSparsity(
        array.shape,
        array.size,
        int(np.count_nonzero(alive)),
        _dead(alive, -2),
        _dead(alive, -1),
        nbytes,
        bitmask,
        None if form is None else f"{form}, axis {form.axis}",
        places,
        min(nbytes, bitmask, nbytes if places is None else places),
    )


def sparsity_report(
    params: Params,
    rules: tree.Rules[Share] | None = None,
    *,
    fn: Callable[..., Any] | None = None,
    inputs: Sequence[Any] = (),
) -> tree.Table:
    """A row a leaf, one for all prunable leaves and one for the model; see `sparsity_table`.

    Args:
        params: Any tree.
        rules: Which leaves are prunable, as in `prune`.
        fn: Called as `fn(params, *inputs)`: adds what its products cost, of each leaf.
        inputs: Arrays or shapes.

    Raises:
        ValueError: If the rules do not fit the tree, or the function can't be traced.
    """
    shares = tree.resolve(matrices(params) if rules is None else rules, params, purpose="report")
    first = {path: group[0] for group in tree.aliases(params) for path in group[1:]}
    leaves = {path: leaf_sparsity(leaf) for path, leaf in tree.param_leaves(params).items()}
    prunable = [path for path, share in shares.items() if is_pruned(share)]
    costs = None if fn is None else graph.costs(graph.read(fn, params, *inputs))
    return sparsity_table(leaves, prunable=prunable, tied=first, costs=costs)


def sparsity_table(
    leaves: Mapping[str, LeafSparsity],
    *,
    prunable: Collection[str],
    tied: Mapping[str, str] | None = None,
    costs: Mapping[str, graph.Cost] | None = None,
) -> tree.Table:
    """The rows of `leaves`, as Han et al. print them, and the two sums.

    Args:
        leaves: What is left, by path.
        prunable: Paths of those that the first sum is over.
        tied: Path → the leaf whose array it is: their weights and bytes are summed once.
        costs: Of the products that each leaf is in. The part left is in proportion to the
            weights kept; what is computed twice counts twice, tied or not.

    Reference:
        Han et al. 2015 (arXiv:1506.02626), tables 3 to 5.
    """
    tied = tied or {}

    def row(path: str) -> tuple[Any, ...]:
        leaf = leaves[path]
        spent = () if costs is None else _spent(costs[path], leaf)
        return _row(path, leaf, (path in prunable, tied.get(path)), spent)

    def total(name: str, paths: Collection[str], is_prunable: bool | None) -> tuple[Any, ...]:
        counted = list({tied.get(path, path): leaves[path] for path in paths}.values())
        spent = (
            () if costs is None else _sums([_spent(costs[path], leaves[path]) for path in paths])
        )
        return _row(name, _sum(counted), (is_prunable, None), spent)

    sums = (
        total("all prunable", [path for path in leaves if path in prunable], True),
        total("the model", leaves, None),
    )
    columns = ("path", "shape", "weights", "kept", "density", *LeafSparsity._fields[3:])
    columns += ("prunable", "tied", *(() if costs is None else _COSTS))
    return tree.Table(columns, (*map(row, leaves), *sums))


def _row(
    name: str, leaf: LeafSparsity, marks: tuple[Any, ...], spent: tuple[int, ...]
) -> tuple[Any, ...]:
    shape, weights, kept, *rest = leaf
    density = kept / weights if weights else 1.0
    return (name, shape or None, weights, kept, density, *rest, *marks, *spent)


def _sum(leaves: Sequence[LeafSparsity]) -> LeafSparsity:
    """A number is summed over the leaves that have it; N:M only if all leaves fit such a form."""

    def over(name: str) -> Any:
        found = [getattr(leaf, name) for leaf in leaves]
        return sum(n for n in found if n is not None)

    numbers = {name: over(name) for name in LeafSparsity._fields if name not in ("shape", "fits")}
    if any(leaf.bytes_nm is None for leaf in leaves):
        numbers["bytes_nm"] = None
    return LeafSparsity(shape=(), fits=None, **numbers)


def _spent(cost: graph.Cost, leaf: LeafSparsity) -> tuple[int, ...]:
    left = cost.multiply_adds * leaf.kept // max(leaf.weights, 1)
    return cost.multiply_adds, left, cost.outputs


def _sums(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True))) or (0,) * len(_COSTS)


def _dead(alive: np.ndarray, axis: int) -> int | None:
    if alive.ndim < 2:
        return None
    others = tuple(i for i in range(alive.ndim) if i != alive.ndim + axis)
    return int(np.count_nonzero(~alive.any(axis=others)))
