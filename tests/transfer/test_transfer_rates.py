"""Rates by depth, unfreezing and the slanted triangle, against the paper's own formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab.transfer import discriminative, slanted_triangular, unfreeze_at

DEPTHS = [("head/.*", 0), ("block_1/.*", 1), ("block_0/.*", 2), ("embed", 3)]


def grads(dtype=jnp.float32):
    two = jnp.full((2,), 2, dtype)
    return {name: {"w": two} for name in ("head", "block_0", "block_1")} | {"embed": two}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_each_layer_steps_less_than_the_one_above_by_the_ratio(dtype):
    tx = optax.chain(optax.sgd(0.5), discriminative(DEPTHS))
    updates, _ = jax.jit(tx.update)(grads(dtype), tx.init(grads(dtype)))
    sizes = [
        updates["head"]["w"],
        updates["block_1"]["w"],
        updates["block_0"]["w"],
        updates["embed"],
    ]
    assert {x.dtype for x in sizes} == {jnp.dtype(dtype)}
    want = [-1, -1 / 2.6, -1 / 6.76, -1 / 17.576]
    np.testing.assert_allclose(
        [float(x[0]) for x in sizes], want, rtol=1e-2 if dtype != jnp.float32 else 1e-6
    )


def test_depths_become_first_steps():
    assert unfreeze_at(DEPTHS, every=50, begin=10) == [
        ("head/.*", 10),
        ("block_1/.*", 60),
        ("block_0/.*", 110),
        ("embed", 160),
    ]


def paper(t, T, cut_frac, ratio, peak):
    """Equation 3 of ULMFiT, line by line."""
    cut = math.floor(T * cut_frac)
    p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
    return peak * (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("steps", "fraction", "ratio"), [(1000, 0.1, 32), (200, 0.25, 4.0)])
def test_the_triangle_is_that_of_the_paper(steps, fraction, ratio):
    schedule = slanted_triangular(0.01, steps=steps, cut_fraction=fraction, ratio=ratio)
    got = jax.jit(jax.vmap(schedule))(jnp.arange(steps + 1))
    want = [paper(t, steps, fraction, ratio, 0.01) for t in range(steps + 1)]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert int(np.argmax(got)) == steps * fraction
    np.testing.assert_allclose(
        [got[0], np.max(got), got[-1]], [0.01 / ratio, 0.01, 0.01 / ratio], rtol=1e-5
    )


def test_a_cut_that_was_rounded_down_never_makes_the_rate_negative():
    schedule = slanted_triangular(1.0, steps=19)
    assert paper(18, 19, 0.1, 32, 1.0) < 0
    np.testing.assert_allclose([np.asarray(schedule(t)) for t in (1, 10, 18)], [1, 1 / 32, 1 / 32])


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"depth of rule 'a' is -1; count from 0"):
        discriminative([("a", -1)])
    with pytest.raises(ValueError, match="ratio must be positive, got 0"):
        discriminative(DEPTHS, ratio=0)
    with pytest.raises(ValueError, match="discriminative: no rule matches leaf 'embed'"):
        discriminative(DEPTHS[:3]).init(grads())
    with pytest.raises(ValueError, match="got 0 and 0"):
        unfreeze_at(DEPTHS, every=0)
    with pytest.raises(ValueError, match="less than one step of rise"):
        slanted_triangular(1.0, steps=9)
    with pytest.raises(ValueError, match=r"got 1.0 and 32"):
        slanted_triangular(1.0, steps=9, cut_fraction=1.0)
