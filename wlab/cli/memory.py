"""How much memory this process holds, and held at most."""

import sys
from pathlib import Path


def resident() -> int | None:
    """Bytes in memory now; None where the system does not tell."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (ImportError, OSError):
        return most_resident()


def most_resident() -> int | None:
    """The most bytes in memory so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
