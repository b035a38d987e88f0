"""Every weight transform under every optimizer, placement and framework.

`make test` takes a fixed pairwise cover with three transforms, `make test-all` all rows of five. A
row is compared with the same run on one device, and every law is checked after every step.
"""

import functools
import itertools
import os

import pytest
from cover import Row, alone, every_pair, pairs, pairwise
from frameworks import FRAMEWORKS
from laws import check_equal, check_on_grid, check_regrowth, check_tied_once, check_zeros
from optimizers import OPTIMIZERS, TOLERANCES
from placements import PLACEMENTS
from run import Trace, run
from transforms import TRANSFORMS, kernels

from wlab import WeightTransform, tree
from wlab.quantization import int4
from wlab.tying import Tie

# Each kind alone or in a chain; the single laws take every row of the table, and `scaled` is
# `identity` but for a number.
CHEAP, DEAR = "scaled", ("prune + quant + tie", "rigl + quant + tie")  # seconds to compile
PRODUCT = [CHEAP, *DEAR, "magnitude globally, int8", "dense and sparse in turn"]
REFERENCE = "one device"
PART, PARTS = (int(n) for n in os.environ.get("WLAB_FULL", "0/0").split("/"))
FACTORS = {
    "transform": alone(PRODUCT if PARTS else [CHEAP, *DEAR]),
    "optimizer": alone(list(OPTIMIZERS)),
    "placement": {name: (p.layout, p.mode) for name, p in PLACEMENTS.items() if name != REFERENCE},
    "framework": alone(list(FRAMEWORKS)),
}


def chosen() -> list[Row]:
    """The cover, or a part of the product; rows with one reference stand together."""
    found = itertools.product(*FACTORS.values()) if PARTS else pairwise(FACTORS, DEAR)
    rows = sorted(found, key=lambda row: (row[0], row[1], row[3]))
    return rows[len(rows) * PART // PARTS : len(rows) * (PART + 1) // PARTS] if PARTS else rows


ROWS = chosen()


@functools.cache
def weights_of(transform: str, framework: str) -> WeightTransform:
    return TRANSFORMS[transform](FRAMEWORKS[framework])


@functools.lru_cache(maxsize=2)
def reference_of(transform: str, optimizer: str, framework: str) -> Trace:
    return trace_of(transform, optimizer, REFERENCE, framework)


def trace_of(transform: str, optimizer: str, placement: str, framework: str) -> Trace:
    weights = weights_of(transform, framework)
    return run(FRAMEWORKS[framework], weights, OPTIMIZERS[optimizer], PLACEMENTS[placement])


@pytest.mark.cover
@pytest.mark.parametrize(
    ("transform", "optimizer", "placement", "framework"), ROWS, ids=map(" · ".join, ROWS)
)
def test_laws_hold_and_placements_agree(
    transform: str, optimizer: str, placement: str, framework: str
):
    f, weights = FRAMEWORKS[framework], weights_of(transform, framework)
    trace = trace_of(transform, optimizer, placement, framework)
    reference = reference_of(transform, optimizer, framework)
    check_equal(reference, trace, weights, rtol=TOLERANCES[optimizer])
    check_zeros(weights, trace)
    regrown = check_regrowth(weights, trace)
    assert regrown > 0 or transform.split(maxsplit=1)[0] not in ("dense", "rigl")
    if "tie" in transform:
        check_tied_once(Tie(*f.tie), trace)
    if transform == "prune + quant + tie":
        paths = tree.selected(kernels(f), trace.seen[-1])
        check_on_grid(dict.fromkeys(paths, int4(group_size=12)), trace)


def test_the_cover_holds_every_pair_of_transform_optimizer_mesh_mode_and_framework():
    rows = pairwise(FACTORS, DEAR)
    assert {pair for row in rows for pair in pairs(row, FACTORS)} == every_pair(FACTORS)
    for i, values in enumerate(FACTORS.values()):
        assert {row[i] for row in rows} == set(values)
