"""The laws on random trees under random chains, with optimizers, placements and gates drawn too."""

import math
import os
import re

import pytest
from laws import check_frozen, check_on_grid, check_regrowth, check_tied_once, check_zeros
from optimizers import OPTIMIZERS, relaxed
from placements import PLACEMENTS
from random_cases import UNFREEZE_AT, Case, random_case
from run import run

from wlab import training

FEW, MANY = 3, int(os.environ.get("WLAB_CASES", "200"))


def check_laws(case: Case) -> None:
    """Runs a case and checks every law that speaks of it."""
    tx = OPTIMIZERS[case.optimizer]
    if case.frozen:
        gates = [(re.escape(path), UNFREEZE_AT) for path in case.frozen]
        tx = relaxed(training.gate(tx, [*gates, (".*", 0)]))
    placement = PLACEMENTS[case.placement]
    trace = run(case.framework, case.weights, tx, placement, accumulate=case.accumulate)
    assert all(map(math.isfinite, trace.losses))
    check_zeros(case.weights, trace)
    check_regrowth(case.weights, trace)
    check_frozen(case.frozen, trace, until=UNFREEZE_AT)
    check_on_grid(case.formats, trace)
    if case.tie is not None:
        check_tied_once(case.tie, trace)


@pytest.mark.parametrize("seed", range(FEW))
def test_the_laws_hold_in_a_random_case(seed: int):
    check_laws(random_case(seed))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(FEW, MANY))
def test_the_laws_hold_in_many_random_cases(seed: int):
    check_laws(random_case(seed))
