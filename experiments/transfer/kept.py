"""What was measured, kept in a file a network, so that a run that is cut off goes on."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import runner


def kept_error(path: Path, measure: Callable[[], float]) -> float:
    """The error in %, from the file if it is there."""
    if not path.exists():
        began = time.process_time()
        error = 100 * (1 - measure())
        spent = {"core_seconds": round(time.process_time() - began, 1)}
        runner.write_text(path, json.dumps({"error": error, **spent}))
        print(f"{path.stem}: {error:.2f} % wrong", flush=True)
    return json.loads(path.read_text())["error"]


def spread(errors: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    mean = statistics.fmean(errors)
    return f"{mean:.2f} ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else f"{mean:.2f}"
