"""A GPU or TPU agrees with the CPU, for every transform, optimizer and framework.

Run     JAX_PLATFORMS=cuda,cpu python -m pytest tests/contract/test_accelerator.py
"""

import jax
import pytest
from cover import alone, pairwise
from frameworks import FRAMEWORKS
from laws import check_equal, check_zeros
from optimizers import OPTIMIZERS
from placements import PLACEMENTS
from run import run
from transforms import TRANSFORMS

pytestmark = pytest.mark.skipif(
    jax.default_backend() == "cpu", reason="NOT RUN: no accelerator, or JAX_PLATFORMS hides it"
)
FACTORS = {
    "transform": alone(list(TRANSFORMS)),
    # Adam without an epsilon divides the first zero gradient of a fresh adapter by zero.
    "optimizer": alone([name for name in OPTIMIZERS if name != "adam_eps0"]),
    "framework": alone(list(FRAMEWORKS)),
}
ROWS = pairwise(FACTORS)


@pytest.mark.parametrize(("transform", "optimizer", "framework"), ROWS, ids=map(" · ".join, ROWS))
def test_the_accelerator_agrees_with_the_cpu(transform: str, optimizer: str, framework: str):
    f = FRAMEWORKS[framework]
    weights, tx, place = TRANSFORMS[transform](f), OPTIMIZERS[optimizer], PLACEMENTS["one device"]
    with jax.default_matmul_precision("highest"):  # no products of rounded numbers
        there = run(f, weights, tx, place)
        with jax.default_device(jax.devices("cpu")[0]):
            here = run(f, weights, tx, place)
    check_equal(here, there, weights, rtol=1e-4)
    check_zeros(weights, there)
