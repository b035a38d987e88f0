"""Carrying a state into a changed recipe, by path, shape and dtype."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from wlab.transform import Key, Params, State, Step, WeightTransform
from wlab.tree import EXTRA, leaves, replace

_ROUNDING = 16  # spacings of the dtype, relative to the largest entry of a leaf


@dataclass(frozen=True)
class Carried:
    """What became of each leaf, by path.

    Attributes:
        kept: Taken from the saved tree.
        fresh: New, as the tree to fill had it.
        dropped: In the saved tree only, or of another shape or dtype there.
    """

    kept: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Migrated:
    """Stored weights and state of a new transform, and the fate of the old leaves.

    Attributes:
        stored: The new stored tree.
        state: The new transform's state.
        weights: What was carried of `stored`.
        states: What was carried of `state`.
        changed: Leaves that the model now sees otherwise, all of them allowed.
    """

    stored: Params
    state: State
    weights: Carried
    states: Carried
    changed: tuple[str, ...]


def carry(saved: Any, like: Any) -> tuple[Any, Carried]:
    """Fills `like` with the leaves of `saved` that agree in path, shape and dtype.

    With a named optimizer chain, `carry(old_opt, tx.init(stored))` keeps the moments of every
    weight that is still there.
    """
    old, new = leaves(saved), leaves(like)
    kept = {path: old[path] for path in new if path in old and _type(old[path]) == _type(new[path])}
    fate = Carried(
        tuple(kept),
        tuple(path for path in new if path not in kept),
        tuple(path for path in old if path not in kept),
    )
    return replace(like, kept), fate


def migrate(
    old: WeightTransform,
    new: WeightTransform,
    stored: Params,
    state: State,
    *,
    key: Key,
    step: Step,
    keep: Literal["stored", "seen"] = "stored",
    allow: Sequence[str] = (),
) -> Migrated:
    """Moves weights from one transform to another: members added, removed or reordered.

    `new` starts from what the model saw under `old`: a tie or an adapter that is gone leaves
    its view's result behind. Then every stored leaf and state that agrees in name, path and
    shape is put back. What the model sees may not change, up to rounding, except where allowed.

    A mask is carried for the leaves it had. A leaf that appears (the far end of a removed tie)
    gets a fresh one, so let the pruning member infer masks from zeros when that matters.

    Args:
        old: The transform that `stored` and `state` belong to.
        new: The transform to move to.
        stored: The weights as stored.
        state: The old transform's state.
        key: For the fresh parts of the new state.
        step: The step at which the views are compared.
        keep: "stored" keeps latent weights (under fake quantization, behind a straight-through
            mask); "seen" keeps what the model computed, where the two differ.
        allow: Regular expressions for the leaves that may be seen otherwise from now on.

    Raises:
        ValueError: If a leaf would be seen otherwise and is not allowed, naming it.
    """
    seen = old.finalize(stored, state, step)
    fresh_stored, fresh_state = new.init(seen, key)
    latent = stored if keep == "stored" else _meaning_what_they_show(stored, seen)
    new_stored, weights = carry(latent, fresh_stored)
    new_state, states = carry(state, fresh_state)
    now = new.finalize(new_stored, new_state, step)
    changed = _changed(leaves(seen), leaves(now))
    refused = [path for path in changed if not any(re.fullmatch(p, path) for p in allow)]
    if refused:
        raise ValueError(
            f"migrate: the model would see {refused[:8]} otherwise ({len(refused)} leaves). "
            'Use keep="seen" to start from what it saw, or name them in `allow`.'
        )
    return Migrated(new_stored, new_state, weights, states, tuple(changed))


def _meaning_what_they_show(stored: Params, seen: Params) -> dict[str, Any]:
    """The stored leaves that the view leaves as they are, and the extras."""
    shown = leaves(seen)
    return {
        path: leaf
        for path, leaf in leaves(stored).items()
        if path.startswith(EXTRA) or (path in shown and _same(leaf, shown[path]))
    }


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    paths = dict.fromkeys((*before, *after))
    return [
        path
        for path in paths
        if path not in before or path not in after or not _same(before[path], after[path])
    ]


def _same(a: Any, b: Any) -> bool:
    if _type(a) != _type(b):
        return False
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return bool(jnp.array_equal(a, b))
    wide_a, wide_b = a.astype(jnp.float32), b.astype(jnp.float32)
    spacing = float(jnp.finfo(a.dtype).eps) * float(jnp.max(jnp.abs(wide_a), initial=0.0))
    return bool(jnp.max(jnp.abs(wide_a - wide_b), initial=0.0) <= _ROUNDING * spacing)


def _type(leaf: Any) -> tuple[Any, ...]:
    return str(leaf.dtype), tuple(leaf.shape)
