"""Where each leaf of a train state lives: by rules for the weights, computed for the rest."""

import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wlab import tree
from wlab.training.state import TrainState

SpecRule: TypeAlias = PartitionSpec | Callable[[tuple[int, ...], Mesh], PartitionSpec]
REPLICATED = PartitionSpec()


def fsdp(axis: str = "data") -> SpecRule:
    """Splits the largest dimension that the axis divides; the rest stays whole (ZeRO-3)."""

    def spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        fits = [(size, -i) for i, size in enumerate(shape) if size % mesh.shape[axis] == 0]
        if not fits:
            return REPLICATED
        chosen = -max(fits)[1]
        return PartitionSpec(*(axis if i == chosen else None for i in range(len(shape))))

    return spec


def state_shardings(
    state: TrainState, rules: tree.Rules[SpecRule], mesh: Mesh, *, seen: Any = None
) -> TrainState:
    """The sharding of every leaf of a state, given abstract or not.

    Moments, averages, masks and scales lie as the weight they belong to: a leaf whose path ends
    with a stored path and which has its rank takes its spec, but for the dimensions that do not
    divide. So do the frozen weights that a transform keeps in its state, by the paths of `seen`.
    Everything else is whole on every device.

    Args:
        state: Whole.
        rules: `(regex, PartitionSpec or fsdp())` for the stored leaves, extra trainables
            included, and for frozen ones; a frozen leaf without a rule is whole.
        mesh: Where to.
        seen: What the model sees, or its shapes; None if nothing is frozen.

    Raises:
        ValueError: If a stored leaf has no rule, a rule no leaf, or a spec does not divide its
            leaf.
    """
    weights = {**_frozen(state, rules, seen), **tree.leaves(state.stored)}
    owners = _shardings(weights, rules, mesh)

    def place(path: str, leaf: Any) -> NamedSharding:
        owner = tree.owner(path, owners)
        if owner is None or len(weights[owner].shape) != len(leaf.shape):
            return NamedSharding(mesh, REPLICATED)
        return NamedSharding(mesh, _fit(leaf.shape, owners[owner].spec, mesh))

    return tree.map_leaves(place, state)


def _frozen(state: TrainState, rules: tree.Rules[SpecRule], seen: Any) -> dict[str, Any]:
    """The leaves that are seen and not stored, are kept in the transform's state, and have a rule.

    What is seen of a tie is kept nowhere: a rule for it stays an error.
    """
    stored, leaves = tree.leaves(state.stored), tree.leaves(seen)
    kept = {tree.owner(path, leaves) for path in tree.paths(state.weights)}
    return {
        path: leaf
        for path, leaf in leaves.items()
        if path in kept
        and path not in stored
        and any(re.fullmatch(pattern, path) for pattern, _ in rules)
    }


def _shardings(
    leaves: dict[str, Any], rules: tree.Rules[SpecRule], mesh: Mesh
) -> dict[str, NamedSharding]:
    chosen = tree.match(rules, list(leaves), purpose="sharding")
    shardings = {}
    for path, leaf in leaves.items():
        rule = chosen[path]
        spec = rule if isinstance(rule, PartitionSpec) else rule(leaf.shape, mesh)
        _check_divides(path, leaf, spec, mesh)
        shardings[path] = NamedSharding(mesh, spec)
    return shardings


def _fit(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    """Drops from a spec the dimensions that do not divide."""
    padded = (*spec, *(None for _ in range(len(shape) - len(spec))))
    kept = [
        names if size % _shards(names, mesh) == 0 else None
        for size, names in zip(shape, padded, strict=True)
    ]
    return PartitionSpec(*kept)


def _check_divides(path: str, leaf: Any, spec: PartitionSpec, mesh: Mesh) -> None:
    unknown = {n for names in spec for n in _names(names)} - set(mesh.axis_names)
    if (
        unknown
        or len(spec) > len(leaf.shape)
        or _fit(leaf.shape, spec, mesh)
        != PartitionSpec(*spec, *(None for _ in range(len(leaf.shape) - len(spec))))
    ):
        raise ValueError(
            f"sharding: {spec} does not divide leaf {path!r}, {tree.describe(leaf)}, "
            f"on mesh {dict(mesh.shape)}. Change its rule or the mesh."
        )


def _shards(names: Any, mesh: Mesh) -> int:
    return math.prod(mesh.shape[name] for name in _names(names))


def _names(names: Any) -> tuple[str, ...]:
    if names is None:
        return ()
    return names if isinstance(names, tuple) else (names,)
