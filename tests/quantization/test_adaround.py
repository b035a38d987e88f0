"""AdaRound against trying every rounding there is, and against what must be true."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import quantization
from wlab.quantization import Format, Integers, dequantize, ggml_q4_0, int2, int3, int4, nf4, unpack
from wlab.quantization.adaround_core import adaround_core, stretched, unstretched

FORMATS = {
    "a scale an output": int4(),
    "groups and a short one": int3(group_size=20),
    "zero points": int2(symmetric=False, group_size=16),
    "minima": Format(Integers(3, symmetric=False, zero="minimum"), -2, 16),
    "signed scales": Format(ggml_q4_0.grid, -2, 16),
}
run = jax.jit(adaround_core, static_argnames=("format", "steps", "regularization", "warmup"))
read_back = jax.jit(dequantize)
nearest = jax.jit(quantization.quantize, static_argnames="format")


def problem(inputs, outputs, seed=0):
    """Weights, and XᵀX of inputs that are correlated and of different sizes."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(300, inputs)) @ rng.normal(size=(inputs, inputs)) / 4
    x = (mixed + rng.normal(size=(300, inputs))) * np.linspace(0.3, 2, inputs)
    return rng.normal(size=(inputs, outputs)).astype(np.float32), (x.T @ x).astype(np.float32)


def lost(w, q, gram):
    change = w.astype(np.float64) - np.asarray(read_back(q), np.float64)
    return np.sum(change * (gram.astype(np.float64) @ change), 0)


@pytest.mark.parametrize("name", FORMATS)
def test_no_output_loses_more_than_with_the_nearest_codes_and_all_together_much_less(name):
    w, gram = problem(48, 8)
    found, plain = run(w, gram, FORMATS[name]), nearest(w, FORMATS[name])
    quantization.check(found.q)
    learned, before = lost(w, found.q, gram), lost(w, plain, gram)
    assert (learned <= before * (1 + 1e-4)).all()
    assert learned.sum() < 0.8 * before.sum()
    np.testing.assert_allclose(found.loss, learned.sum(), rtol=1e-3)
    np.testing.assert_array_equal(found.q.scale, plain.scale)
    jax.tree.map(np.testing.assert_array_equal, found.q.zero_point, plain.zero_point)
    bits = FORMATS[name].grid.bits
    codes = [np.asarray(unpack(q.codes, bits, 8), np.int32) for q in (found.q, plain)]
    assert np.abs(codes[0] - codes[1]).max() == 1


def test_it_comes_near_the_best_rounding_of_all():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 8)) + rng.normal(size=(300, 8))
    w, gram = rng.normal(size=(8, 12)).astype(np.float32), (x.T @ x).astype(np.float32)
    found = run(w, gram, int3())
    scale = np.asarray(nearest(w, int3()).scale, np.float64)
    below = np.floor(w / scale)
    ups = np.array(list(product((0, 1), repeat=8)))[:, :, None]
    change = w - np.clip(below + ups, -3, 3) * scale
    every = np.einsum("tin,ij,tjn->tn", change, gram.astype(np.float64), change)
    learned, before = lost(w, found.q, gram), lost(w, nearest(w, int3()), gram)
    least = every.min(0)
    assert (learned >= least * (1 - 1e-4)).all()
    assert (learned - least).sum() < 0.2 * (before - least).sum()


@pytest.mark.parametrize("name", ["groups and a short one", "minima"])
def test_with_inputs_that_are_alike_it_is_plain_rounding(name):
    w, _ = problem(48, 8)
    found = run(w, 7 * np.eye(48, dtype=np.float32), FORMATS[name], steps=100)
    jax.tree.map(np.testing.assert_array_equal, found.q, nearest(w, FORMATS[name]))


def test_outputs_of_zeros_and_inputs_that_never_come_do_no_harm():
    w, gram = problem(16, 4)
    w[:, 1] = 0
    gram[3], gram[:, 3] = 0, 0
    for matrix in (gram, np.zeros_like(gram)):
        found = run(w, matrix, int4(), steps=50)
        values = np.asarray(read_back(found.q))
        assert np.isfinite(found.loss) and np.isfinite(values).all() and (values[:, 1] == 0).all()


def test_the_stretched_sigmoid_reaches_its_ends_and_is_undone():
    h = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(stretched(unstretched(h)), h, atol=1e-6)
    np.testing.assert_array_equal(stretched(jnp.array([-3.0, 3.0])), [0, 1])
    assert float(stretched(jnp.float32(0))) == 0.5


def test_grids_and_numbers_that_do_not_fit_are_refused():
    w, gram = (jnp.asarray(x) for x in problem(16, 4))
    with pytest.raises(ValueError, match="take a format of integers"):
        adaround_core(w, gram, nf4(group_size=16))
    wrong: list[dict[str, Any]] = [{"steps": 0}, {"regularization": -1.0}, {"warmup": 1.0}]
    for bad in wrong:
        with pytest.raises(ValueError, match="adaround takes steps"):
            adaround_core(w, gram, int4(), **bad)
