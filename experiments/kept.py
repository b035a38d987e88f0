"""Figures that were measured, kept in a file each, so that a run that is cut off goes on."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import runner


def kept(path: Path, measure: Callable[[], float], *, name: str = "figure") -> float:
    """A figure, from its file if it is there; what measuring it took is kept beside it."""
    if not path.exists():
        began = time.process_time()
        figure = measure()
        spent = {"core_seconds": round(time.process_time() - began, 1)}
        runner.write_text(path, json.dumps({name: figure, **spent}))
        print(f"{path.stem}: {name} {figure:.2f}", flush=True)
    return json.loads(path.read_text())[name]


def spread(figures: Sequence[float]) -> str:
    """The mean, with the least and the largest if there are several."""
    mean = sum(figures) / len(figures)
    several = f" ({min(figures):.3f} to {max(figures):.3f})" if len(figures) > 1 else ""
    return f"{mean:.3f}{several}"
