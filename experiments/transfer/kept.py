"""What was measured, kept in a file a network, so that a run that is cut off goes on."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import runner


def kept_error(path: Path, measure: Callable[[], float]) -> float:
    """The error in %, from the file if it is there."""
    if not path.exists():
        error = 100 * (1 - measure())
        runner.write_text(path, json.dumps({"error": error}))
        print(f"{path.stem}: {error:.2f} % wrong", flush=True)
    return json.loads(path.read_text())["error"]


def spread(errors: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    mean = statistics.fmean(errors)
    return f"{mean:.2f} ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else f"{mean:.2f}"
