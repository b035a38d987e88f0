"""Saving steps with orbax: asynchronous, atomic, and never over a step that exists."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1

from wlab.checkpoint.digest import digests
from wlab.checkpoint.header import Damaged, Header, LeafHeader, read_header, reason
from wlab.checkpoint.recipe import plain, versions
from wlab.checkpoint.restoring import Restored, restore
from wlab.checkpoint.steps import (
    Best,
    PathLike,
    clear_stale,
    drop_old,
    latest,
    set_aside,
    step_path,
    steps,
)
from wlab.tree import leaves


class Saver:
    """The one writer of a directory of steps, for a training loop.

    `save` returns once the state is copied off the devices, so the next step may donate it;
    files are written in the background. A step counts as saved only when all of it is on
    disk: a kill at any moment leaves the earlier steps whole. Making a `Saver` removes what
    a killed run left unfinished. Every process of a run makes one and calls it alike.

    Example:
        with Saver("runs/a", recipe={"lr": 0.1}) as saver:
            saver.save(step, state, metrics={"error": 0.02})
    """

    def __init__(
        self,
        root: PathLike,
        *,
        recipe: dict[str, Any] | None = None,
        keep: int = 3,
        best: Best | None = None,
    ) -> None:
        """Opens `root`, which is made if it is missing.

        Args:
            root: The directory of step directories.
            recipe: Plain JSON, saved with each step: rules and hyper-parameters.
            keep: How many of the newest steps are kept, at least 2.
            best: Further steps to keep, by a metric.

        Raises:
            ValueError: If `keep < 2`: a damaged newest step must have one to fall back to.
        """
        if keep < 2:
            raise ValueError(f"keep must be at least 2 steps, got {keep}: one may be damaged.")
        if best is not None and best.keep < 1:
            raise ValueError(f"Best.keep must be at least 1 step, got {best.keep}.")
        self.root = Path(root).absolute()
        self._recipe, self._keep, self._best = plain(recipe or {}), keep, best
        self._pending: tuple[int, Any] | None = None
        self.root.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            clear_stale(self.root)

    def save(self, step: int, state: Any, *, metrics: dict[str, float] | None = None) -> bool:
        """Begins to save a state; waits for the save before it.

        Returns:
            False if this step is already there with the same bits, and nothing was written.

        Raises:
            TypeError: If a leaf is not an array.
            ValueError: If the step, or a newer one, is there and differs, or if the metric
                that `best` names is missing.
            OSError: If this or the previous save failed, such as on a full disk.
        """
        self.wait()
        header = self._header(state, metrics or {})
        if not self._is_new(step, header):
            return False
        try:
            pending = v1.save_async(
                str(step_path(self.root, step)), leaves(state), custom_metadata=header.to_json()
            )
        except Exception as error:
            raise self._failure(step, error) from error
        self._pending = step, pending
        return True

    def wait(self) -> None:
        """Waits until the last save is on disk, then deletes the steps no longer kept.

        Raises:
            OSError: If the save failed; earlier steps are untouched.
        """
        if self._pending is None:
            return
        (step, pending), self._pending = self._pending, None
        try:
            pending.result()
        except Exception as error:
            raise self._failure(step, error) from error
        if jax.process_index() == 0:
            _flush(step_path(self.root, step))
            drop_old(self.root, keep=self._keep, keep_best=self._best)

    def restore(self, like: Any, **options: Any) -> Restored:
        """`wlab.checkpoint.restore`; damaged steps are renamed, so that they can be saved anew."""
        self.wait()
        restored = restore(self.root, like, **options)
        if jax.process_index() == 0:
            for step in restored.skipped:
                set_aside(self.root, step)
        return restored

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wait()

    def _header(self, state: Any, metrics: dict[str, float]) -> Header:
        if self._best is not None and self._best.metric not in metrics:
            raise ValueError(
                f"save: metrics {list(metrics)} lack {self._best.metric!r}, "
                "by which the best step is kept."
            )
        named = leaves(state)
        for path, leaf in named.items():
            _refuse_non_array(path, leaf)
        found = {
            path: LeafHeader(str(leaf.dtype), leaf.shape, digest)
            for (path, leaf), digest in zip(named.items(), digests(named).values(), strict=True)
        }
        numbers = {name: float(value) for name, value in metrics.items()}
        return Header(self._recipe, versions(), numbers, found)

    def _is_new(self, step: int, header: Header) -> bool:
        newest = latest(self.root)
        if newest is None or step > newest:
            return True
        found = f"step {newest} is newer"
        if step in steps(self.root):
            if _holds(step_path(self.root, step), header):
                return False
            found = f"step {step} is there already, with other values"
        raise ValueError(
            f"save: cannot save step {step} under {self.root}: {found}. Nothing is ever "
            "overwritten: save to another directory, move the later steps away, or, if the step is "
            "damaged, call the Saver's `restore`, which sets it aside."
        )

    def _failure(self, step: int, error: Exception) -> OSError:
        if jax.process_index() == 0:
            clear_stale(self.root)
        return OSError(
            f"Step {step} was not saved under {self.root}: {reason(error)}. The earlier steps "
            f"{steps(self.root)} are untouched; make room or choose another directory."
        )


def save(
    root: PathLike,
    step: int,
    state: Any,
    *,
    recipe: dict[str, Any] | None = None,
    metrics: dict[str, float] | None = None,
    keep: int = 3,
    best: Best | None = None,
) -> bool:
    """Saves one state and waits until it is on disk; see `Saver` for arguments and errors."""
    with Saver(root, recipe=recipe, keep=keep, best=best) as saver:
        return saver.save(step, state, metrics=metrics)


def _holds(directory: Path, header: Header) -> bool:
    try:
        return read_header(directory).leaves == header.leaves
    except Damaged:
        return False


def _refuse_non_array(path: str, leaf: Any) -> None:
    if not isinstance(leaf, jax.Array | np.ndarray):
        raise TypeError(
            f"save: leaf {path!r} is a {type(leaf).__name__}. A state holds arrays only: "
            "wrap numbers in jnp.asarray, put text into the recipe."
        )
    if 0 in leaf.shape:
        raise TypeError(f"save: leaf {path!r} of shape {leaf.shape} is empty; leave it out.")


def _flush(directory: Path) -> None:
    """Asks the disk to keep the small files and the names too; orbax does so for arrays only."""
    for path in (*directory.rglob("*"), directory, directory.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
