"""Every weight transform under every optimizer, placement and framework.

`make test` takes a fixed pairwise cover of the product, `make test-all` all of it. A row is
compared with the same run on one device, and every law is checked after every step.
"""

import functools
import itertools
import os

import pytest
from cover import pairwise
from frameworks import FRAMEWORKS
from laws import check_equal, check_on_grid, check_regrowth, check_tied_once, check_zeros
from optimizers import OPTIMIZERS
from placements import PLACEMENTS
from run import Trace, run
from transforms import TRANSFORMS

from wlab.quantization import int4

# One row of each kind; the single laws take them all.
PRODUCT = [
    "identity",
    "magnitude globally, int8",
    "fake_quant int4",
    "tie",
    "scaled",
    "prune + quant + tie",
    "steepest + quant + tie",
    "alternating",
]
REFERENCE = "one device"
FACTORS = {
    "transform": PRODUCT,
    "optimizer": list(OPTIMIZERS),
    "placement": [name for name in PLACEMENTS if name != REFERENCE],
    "framework": list(FRAMEWORKS),
}
PART, PARTS = (int(n) for n in os.environ.get("WLAB_FULL", "0/0").split("/"))
ROWS = list(itertools.product(*FACTORS.values()))[PART::PARTS] if PARTS else pairwise(FACTORS)


@functools.lru_cache(maxsize=8)
def trace_of(transform: str, optimizer: str, placement: str, framework: str) -> Trace:
    f = FRAMEWORKS[framework]
    return run(f, TRANSFORMS[transform](f), OPTIMIZERS[optimizer], PLACEMENTS[placement])


@pytest.mark.parametrize(
    ("transform", "optimizer", "placement", "framework"), ROWS, ids=map(" · ".join, ROWS)
)
def test_laws_hold_and_placements_agree(
    transform: str, optimizer: str, placement: str, framework: str
):
    f = FRAMEWORKS[framework]
    weights = TRANSFORMS[transform](f)
    reference = trace_of(transform, optimizer, REFERENCE, framework)
    trace = trace_of(transform, optimizer, placement, framework)
    check_equal(reference, trace, weights)
    check_zeros(weights, trace)
    regrown = check_regrowth(weights, trace)
    assert regrown > 0 or transform.split(maxsplit=1)[0] not in ("alternating", "steepest")
    if "tie" in transform:
        check_tied_once(f, weights, trace)
    if transform in ("fake_quant int4", "prune + quant + tie"):
        check_on_grid(f, trace, int4(group_size=12))


def test_the_cover_holds_every_pair_of_values():
    rows = pairwise(FACTORS)
    for (i, a), (j, b) in itertools.combinations(enumerate(FACTORS.values()), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(a, b))
