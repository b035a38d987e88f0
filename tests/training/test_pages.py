"""Memory that is kept from step to step, counted in the pages that a process has to ask for."""

import subprocess
import sys

import pytest

from wlab import training

FREED_AGAIN_AND_AGAIN = """
import ctypes, resource
from wlab import training
if {keep}:
    print(training.keep_pages())
library, size = ctypes.CDLL(None), 48 * 2**20
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
def used():
    place = library.malloc(ctypes.c_size_t(size))
    ctypes.memset(place, 1, size)
    library.free(place)
used()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    used()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def told(*, keep: bool) -> list[str]:
    script = FREED_AGAIN_AND_AGAIN.format(keep=keep)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_pages_that_are_kept_are_not_asked_for_again():
    done, faults = told(keep=True)
    if done == "False":
        pytest.skip("not glibc: it has no such setting")
    (usual,) = map(int, told(keep=False))
    assert usual >= 4 * 48 * 2**20 // 2**22  # pages of 4 MiB at most
    assert int(faults) < usual / 4


def test_a_limit_is_a_number_of_bytes():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        training.keep_pages(0)
