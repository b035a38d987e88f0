"""Which leaves of a file are pruned, and the leaves as they are once they have been."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np

from wlab.checkpoint import Lazy

Chooser: TypeAlias = Callable[[Any], Any]
"""Scores → the mask of those that stay."""

# Papers leave embeddings and norms as they are: so does this, unless a rule says otherwise.
_SPARED = re.compile(
    r"embd|embed|norm|cls_token|relative_|(^|[./_])(ln|wte|wpe|rms_)|(^|[./])shared[./]weight", re.I
)
_RANKED = ("float32", "bfloat16", "float16")
_BY_NAME = "by name"
_ANSWERS = {"yes": True, "no": False}


def rules_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Declares `--rules`; `what` says what they are of, and what holds without one."""
    parser.add_argument(
        "--rules",
        type=rule,
        nargs="+",
        action="extend",
        default=[],
        metavar="REGEX=SHARE",
        help=f"yes, no or a density of its own for {what}",
    )


def rule(text: str) -> tuple[str, bool | float]:
    """A regex and yes, no, or a density."""
    pattern, _, share = text.rpartition("=")
    if share in _ANSWERS and pattern:
        return pattern, _ANSWERS[share]
    try:
        density = float(share)
    except ValueError:
        density = -1.0
    if not pattern or not 0 <= density <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not REGEX=SHARE, the share being yes, no or a density from 0 to 1"
        )
    return pattern, density


def is_prunable(name: str, array: Any) -> bool:
    """Whether a leaf is pruned if no rule names it: floats of two or more axes, no embedding."""
    floats = "float" in str(array.dtype)
    return floats and len(array.shape) > 1 and 0 not in array.shape and not _SPARED.search(name)


def chosen(arrays: Mapping[str, Lazy], rules: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The shares of the leaves that are pruned: True, or a density each.

    Raises:
        ValueError: If a rule matches no leaf, or nothing is selected.
        TypeError: If a selected leaf has a dtype that is not ranked.
    """
    from wlab import tree

    found = tree.match([*rules, (".*", _BY_NAME)], list(arrays), purpose="prune")
    shares = {n: is_prunable(n, arrays[n]) if s == _BY_NAME else s for n, s in found.items()}
    shares = {name: share for name, share in shares.items() if share is not False}
    if not shares:
        raise ValueError(
            f"none of the {len(arrays)} leaves is selected; name some with --rules 'REGEX=yes'."
        )
    for name in shares:
        if arrays[name].dtype not in _RANKED:
            raise TypeError(
                f"leaf {name!r} is {arrays[name].dtype}, which is not ranked. Give --dtype "
                f"float32, or leave it alone with --rules '{re.escape(name)}=no'."
            )
    return shares


def by_magnitude(
    arrays: Mapping[str, Lazy], shares: Mapping[str, Any], density: float, allocation: Any
) -> dict[str, Chooser]:
    """Keeps the largest weights of each budget; those ranked together are all read first."""
    import jax

    from wlab.pruning import topk_mask
    from wlab.pruning.shares import budgets

    choosers: dict[str, Chooser] = {}
    shapes = {name: arrays[name].shape for name in shares}
    for paths, k in budgets(shares, shapes, density, allocation):
        if len(paths) == 1:
            choosers[paths[0]] = partial(jax.jit(topk_mask), k=k)
            continue
        masks = cache(partial(_together, {path: arrays[path] for path in paths}, k))
        choosers |= {path: partial(_unpacked, masks, path) for path in paths}
    return choosers


def by_neighbours(
    arrays: Mapping[str, Lazy], shares: Mapping[str, Any], *, axis: int, of: int, **options: Any
) -> dict[str, Chooser]:
    """Keeps the largest of every few neighbours.

    Raises:
        ValueError: If a leaf has no such axis, or `of` does not divide it and the remainder is
            "refuse", naming the leaf and the flag.
    """
    import jax

    from wlab.pruning import nm_mask

    for name in shares:
        shape = arrays[name].shape
        alone = f"leave it alone with --rules '{re.escape(name)}=no'"
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"leaf {name!r} of shape {shape} has no axis {axis}: choose another --axis, "
                f"or {alone}."
            )
        if shape[axis] % of and options["remainder"] == "refuse":
            raise ValueError(
                f"leaf {name!r} has {shape[axis]} along axis {axis}, which groups of {of} "
                "do not divide. Choose --remainder dense, which keeps the last short group, or "
                f"share, which thins it alike; or {alone}."
            )
    mask = jax.jit(nm_mask, static_argnames=("keep", "of", "axis", "remainder"))
    return dict.fromkeys(shares, partial(mask, axis=axis, of=of, **options))


def thinned(name: str, array: Lazy, choose: Chooser) -> Lazy:
    """The leaf with zeros where the mask of its magnitudes has none, once it is read."""

    def read() -> np.ndarray:
        found = array.read()
        return np.where(choose(_scores(name, found)), found, np.zeros((), found.dtype))

    return replace(array, read=read)


def _scores(name: str, array: np.ndarray) -> Any:
    import jax.numpy as jnp

    if np.isnan(array).any():
        raise ValueError(
            f"leaf {name!r} holds NaN, which has no rank. Mend it, or leave it alone with "
            f"--rules '{re.escape(name)}=no'."
        )
    return jnp.abs(jnp.asarray(array))


def _together(arrays: Mapping[str, Lazy], k: Any) -> dict[str, np.ndarray]:
    """The masks of leaves that are ranked together, as bits."""
    import jax

    from wlab.pruning import topk_masks

    masks = jax.jit(topk_masks)([_scores(name, array.read()) for name, array in arrays.items()], k)
    return {n: np.packbits(np.asarray(mask)) for n, mask in zip(arrays, masks, strict=True)}


def _unpacked(masks: Callable[[], dict[str, np.ndarray]], name: str, scores: Any) -> np.ndarray:
    bits = np.unpackbits(masks()[name], count=scores.size)
    return bits.astype(bool).reshape(scores.shape)
