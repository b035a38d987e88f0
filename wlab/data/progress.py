"""Progress of a download: a bar on a terminal, a few log lines elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the bytes done so far, out of `total`."""
    if not sys.stderr.isatty():
        yield _log_quarters(label, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=min(done, total))


def _log_quarters(label: str, total: int) -> Callable[[int], None]:
    _log.info("%s: %.1f MB", label, total / 1e6)
    quarter = 0

    def report(done: int) -> None:
        nonlocal quarter
        reached = min(4 * done // max(total, 1), 4)
        if reached > quarter:
            quarter = reached
            _log.info("%s: %d %%", label, 25 * quarter)

    return report
