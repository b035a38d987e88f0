"""Step directories `root/<step>`: which are finished, which to keep, which to clear away.

Local or mounted file systems only. A directory leaves the name `<step>` by one rename, so
that no reader meets a step that is being deleted.
"""

import logging
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from wlab.checkpoint.header import FINISHED, Damaged, read_header

PathLike: TypeAlias = str | os.PathLike[str]

_log = logging.getLogger("wlab.checkpoint")
_STALE = re.compile(r"\d+\.(orbax-checkpoint-tmp.*|deleting)")


@dataclass(frozen=True)
class Best:
    """Keeps the steps with the best finite value of a metric, beside the newest ones.

    Attributes:
        metric: The name under which `save` was given it.
        mode: Whether the smallest or the largest value is best.
        keep: How many steps.
    """

    metric: str
    mode: Literal["min", "max"] = "min"
    keep: int = 1


def steps(root: PathLike) -> list[int]:
    """The finished steps under `root`, ascending. A step being written is not among them."""
    return [at for at in step_directories(root) if (step_path(root, at) / FINISHED).exists()]


def latest(root: PathLike) -> int | None:
    """The newest finished step, or None."""
    return max(steps(root), default=None)


def best(root: PathLike, which: Best) -> int | None:
    """The finished step whose metric is best, or None if no step has a finite one."""
    return next(iter(_ranked(root, which)), None)


def step_path(root: PathLike, step: int) -> Path:
    """Where a step is kept."""
    return Path(root) / str(step)


def step_directories(root: PathLike) -> list[int]:
    """Every step that has a directory, finished or not, ascending."""
    if not Path(root).is_dir():
        return []
    return sorted(int(p.name) for p in Path(root).iterdir() if p.name.isdecimal() and p.is_dir())


def clear_stale(root: PathLike) -> None:
    """Removes what a killed run left unfinished. Only the one writer of `root` may call it."""
    for path in Path(root).iterdir():
        if _STALE.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    for step in set(step_directories(root)) - set(steps(root)):
        target = set_aside(root, step)
        _log.warning("step %d was not finished; it is kept as %s", step, target)


def set_aside(root: PathLike, step: int) -> Path:
    """Renames a damaged step to `<step>.damaged`, so that the step can be saved anew."""
    source = step_path(root, step)
    target = source.with_name(f"{step}.damaged")
    number = 1
    while target.exists():
        number += 1
        target = source.with_name(f"{step}.damaged-{number}")
    source.rename(target)
    return target


def drop_old(root: PathLike, *, keep: int, keep_best: Best | None) -> None:
    """Deletes the finished steps that are neither among the newest nor among the best."""
    wanted = set(steps(root)[-keep:])
    if keep_best is not None:
        wanted |= set(_ranked(root, keep_best)[: keep_best.keep])
    for step in set(steps(root)) - wanted:
        doomed = step_path(root, step).with_name(f"{step}.deleting")
        step_path(root, step).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _ranked(root: PathLike, which: Best) -> list[int]:
    """The steps with a finite metric, best first; of equals, the newer first."""
    sign = 1.0 if which.mode == "min" else -1.0
    found = {}
    for step in reversed(steps(root)):
        try:
            value = read_header(step_path(root, step)).metrics.get(which.metric, math.nan)
        except Damaged:
            continue
        if math.isfinite(value):
            found[step] = sign * value
    return sorted(found, key=lambda step: found[step])
