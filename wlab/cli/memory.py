"""How much memory this process holds, and held at most."""

import re
import sys
from pathlib import Path


def resident() -> int | None:
    """Bytes in memory now; None where the system does not tell."""
    return _told("VmRSS") or _most_used()


def most_resident() -> int | None:
    """The most bytes in memory so far; None where the system does not tell."""
    return _told("VmHWM") or _most_used()


def _told(line: str) -> int | None:
    """A line of what Linux tells of this program; unlike `_most_used`, nothing of its parent's."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{line}:\s+(\d+) kB$", status, re.MULTILINE)
    return None if found is None else 1024 * int(found[1])


def _most_used() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
