"""What becomes of a step's memory until the next step, on CPUs."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them


def keep_pages(limit: int = 2**30) -> bool:
    """Lets this process keep memory that is freed, instead of handing it back to the system.

    What a compiled step needs for its temporaries is one allocation. Where that is larger than
    32 MiB, glibc gets it from the kernel at every step, and every page is cleared anew: up to a
    fifth of a step was seen to go there. With the pages kept, the process stays as large as it has
    once been. It is the same as starting Python with `MALLOC_MMAP_THRESHOLD_=1073741824
    MALLOC_TRIM_THRESHOLD_=2147483647`. Call it once, before training; accelerators have their own.

    Args:
        limit: Allocations of fewer bytes are kept.

    Returns:
        Whether it was done: only glibc, the C library of most Linux systems, can.

    Raises:
        ValueError: If the limit is below 1 byte.
    """
    if limit < 1:
        raise ValueError(f"keep_pages: the limit is in bytes, at least 1; got {limit}.")
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    values = {_MMAP_THRESHOLD: limit, _TRIM_THRESHOLD: 2 * limit}
    return all(library.mallopt(name, min(value, 2**31 - 1)) for name, value in values.items())
