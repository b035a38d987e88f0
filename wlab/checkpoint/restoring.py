"""Restoring a state onto any number of devices, from the newest step that can be read."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from orbax.checkpoint import v1

from wlab.checkpoint.digest import digests
from wlab.checkpoint.header import Damaged, Header, LeafHeader, read_header, reason
from wlab.checkpoint.recipe import differences, versions
from wlab.checkpoint.steps import PathLike, step_directories, step_path
from wlab.tree import Rules, leaves, match
from wlab.tree import replace as replace_leaves

_log = logging.getLogger("wlab.checkpoint")


@dataclass(frozen=True)
class Restored:
    """A state and where it came from.

    Attributes:
        state: `like` with its leaves filled in.
        step: The step that was read.
        metrics: The metrics saved with it.
        recipe: The recipe saved with it.
        skipped: Newer steps that could not be read, and why.
    """

    state: Any
    step: int
    metrics: dict[str, float]
    recipe: dict[str, Any]
    skipped: dict[int, str]


def restore(
    root: PathLike,
    like: Any,
    *,
    step: int | None = None,
    only: Rules[bool] | None = None,
    recipe: dict[str, Any] | None = None,
    on_mismatch: Literal["refuse", "warn"] = "refuse",
) -> Restored:
    """Reads a step into the structure, dtypes and shardings of `like`, bit for bit.

    A damaged newest step is passed over with a warning; `Restored.skipped` says so.

    Args:
        root: The directory of step directories.
        like: Arrays or `ShapeDtypeStruct`s with shardings on the devices at hand, which need
            not be those that saved. Without a sharding a leaf goes to the first device.
        step: One step, and no other; the newest readable one if None.
        only: `(path regex, bool)`; other leaves of `like` are handed back as they came.
        recipe: This run's recipe, compared with the saved one.
        on_mismatch: Whether another recipe is an error or a warning.

    Raises:
        FileNotFoundError: If there is no step.
        OSError: If no step can be read, with the reason for each.
        ValueError: If leaves are missing, extra, or of another shape or dtype, naming them;
            if the recipe differs, with a line for each key.
    """
    skipped: dict[int, str] = {}
    for at in _candidates(root, step):
        try:
            header = read_header(step_path(root, at))
            _compare_recipes(at, header, recipe, on_mismatch)
            wanted = _wanted(at, header, like, only)
            found = _load(root, at, header, wanted)
        except Damaged as why:
            skipped[at] = str(why)
            continue
        for passed_over, why in skipped.items():
            _log.warning("step %d is damaged (%s); restored step %d", passed_over, why, at)
        state = replace_leaves(like, found)
        return Restored(state, at, header.metrics, header.recipe, skipped)
    reasons = "".join(f"\n  step {at}: {why}" for at, why in skipped.items())
    raise OSError(f"No readable checkpoint under {root}:{reasons}")


def _candidates(root: PathLike, step: int | None) -> list[int]:
    found = step_directories(root)
    if not found or (step is not None and step not in found):
        wanted = "a step" if step is None else f"step {step}"
        raise FileNotFoundError(f"No {wanted} under {root}; there are {found or 'none'}.")
    return found[::-1] if step is None else [step]


def _compare_recipes(
    at: int, header: Header, recipe: dict[str, Any] | None, on_mismatch: str
) -> None:
    upgraded = differences(header.versions, versions())
    if upgraded:
        _log.info("step %d was saved by other versions: %s", at, "; ".join(upgraded))
    changed = [] if recipe is None else differences(header.recipe, recipe)
    if not changed:
        return
    lines = "".join(f"\n  {line}" for line in changed)
    message = f"The recipe of step {at} is not this run's:{lines}"
    if on_mismatch == "refuse":
        raise ValueError(
            f'{message}\nRestore with on_mismatch="warn" to go on with the new recipe, and '
            "use `migrate` if weight transforms were added or removed."
        )
    _log.warning(message)


def _wanted(at: int, header: Header, like: Any, only: Rules[bool] | None) -> dict[str, Any]:
    """The leaves of `like` to fill.

    Raises:
        ValueError: If the checkpoint holds others, naming the first few.
    """
    named = leaves(like)
    paths = [*named, *(path for path in header.leaves if path not in named)]
    chosen = dict.fromkeys(paths, True) if only is None else match(only, paths, purpose="only")
    wanted = [path for path in paths if chosen[path]]
    problems = [
        problem for path in wanted if (problem := _problem(path, named, header.leaves)) is not None
    ]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:8])
        more = f"\n  … {len(problems)} in all" if len(problems) > 8 else ""
        raise ValueError(
            f"Step {at} does not fit the state to restore:{shown}{more}\n"
            "Build the state as it was saved, name the leaves you want with `only`, "
            "or carry over what agrees with `carry`."
        )
    return {path: named[path] for path in wanted}


def _problem(path: str, like: dict[str, Any], saved: dict[str, LeafHeader]) -> str | None:
    if path not in saved:
        return f"leaf {path!r} is missing from the checkpoint"
    if path not in like:
        return f"leaf {path!r} is in the checkpoint only"
    leaf = like[path]
    wanted = LeafHeader(str(leaf.dtype), tuple(leaf.shape), 0)
    if saved[path][:2] != wanted[:2]:
        return f"leaf {path!r} is {saved[path]} in the checkpoint, {wanted} is wanted"
    return _unplaceable(path, getattr(leaf, "sharding", None), wanted.shape)


def _unplaceable(path: str, sharding: Any, shape: tuple[int, ...]) -> str | None:
    if sharding is None:
        return None
    if isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh):
        return f"leaf {path!r} has a sharding without devices; give it a NamedSharding on a mesh"
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        return f"leaf {path!r} does not divide: {error}"
    return None


def _load(root: PathLike, at: int, header: Header, wanted: dict[str, Any]) -> dict[str, Any]:
    targets = {path: _target(leaf) for path, leaf in wanted.items()}
    if not targets:
        return {}
    context = v1.Context()
    context.pytree.loading.partial_load = True
    try:
        with context:
            found = v1.load(str(step_path(root, at).absolute()), targets)
    except Exception as error:  # orbax and tensorstore raise many kinds for a broken file
        raise Damaged(reason(error)) from error
    for path, digest in digests(found).items():
        if digest != header.leaves[path].digest:
            raise Damaged(f"leaf {path!r} is not what was saved: its digest differs")
    return found


def _target(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
