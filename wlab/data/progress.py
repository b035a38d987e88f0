"""Progress of long work: a bar on a terminal, a few log lines elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def progress(label: str, total: int, *, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the bytes, or units, done so far, out of `total`."""
    if not sys.stderr.isatty():
        size = f"{total / 1e6:.1f} MB" if unit == "bytes" else f"{total:,} {unit}"
        yield _log_quarters(label, size, total)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn())
    volume = (bars.DownloadColumn(), bars.TransferSpeedColumn())
    count = (bars.MofNCompleteColumn(), bars.TextColumn(unit), bars.TimeRemainingColumn())
    shown = (*columns, *(volume if unit == "bytes" else count))
    with bars.Progress(*shown, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=min(done, total))


def _log_quarters(label: str, size: str, total: int) -> Callable[[int], None]:
    _log.info("%s: %s", label, size)
    quarter = 0

    def report(done: int) -> None:
        nonlocal quarter
        reached = min(4 * done // max(total, 1), 4)
        if reached > quarter:
            quarter = reached
            _log.info("%s: %d %%", label, 25 * quarter)

    return report
