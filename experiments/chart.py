"""Line charts beside a result: means over seeds, and a band from the least to the largest."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wlab.checkpoint.atomic import written_whole


class Line(NamedTuple):
    """One line: a list of the seeds' values at each x."""

    name: str
    x: Sequence[float]
    y: Sequence[Sequence[float]]


class Panel(NamedTuple):
    """Lines over one pair of axes; x falls from left to right, on a logarithmic scale."""

    x: str
    y: str
    lines: Sequence[Line]


def draw(path: Path, panels: Sequence[Panel]) -> str:
    """Writes the panels side by side as PNG; says where, or what is missing to draw."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "no chart: install matplotlib (`pip install weightlab[plot]`)"
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        for line in panel.lines:
            values = np.asarray(line.y)
            axes.plot(line.x, values.mean(1), marker="o", markersize=3, label=line.name)
            axes.fill_between(line.x, values.min(1), values.max(1), alpha=0.2)
        axes.set(xlabel=panel.x, ylabel=panel.y, xscale="log")
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
        axes.legend()
    with written_whole(path) as file:
        canvas.print_png(file)
    return str(path)
