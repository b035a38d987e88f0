"""GPTQ against a slow twin in float64, and against what must be true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import quantization
from wlab.calibration import inverse_factor
from wlab.quantization import dequantize, int3, int4, quantize
from wlab.quantization.gptq_core import activity_order, gptq_core

INPUTS, OUTPUTS = 48, 10


def problem(seed: int = 0, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and inputs that are correlated and of different sizes."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, INPUTS)) @ rng.normal(size=(INPUTS, INPUTS)) / 4
    x = (mixed + rng.normal(size=(rows, INPUTS))) * np.linspace(0.3, 2, INPUTS)
    return rng.normal(size=(INPUTS, OUTPUTS)).astype(np.float32), x.astype(np.float32)


FORMATS = {
    "a scale an output": int4(),
    "groups": int4(group_size=16),
    "a short last group": int3(group_size=20),
    "one scale": int4(axis=None),
    "zero points": int4(symmetric=False, group_size=16),
    "nf4": quantization.nf4(group_size=16),
    "mxfp4": quantization.ocp_mxfp4,
    "nvfp4": quantization.nvfp4,
    "q4_0": quantization.ggml_q4_0,
}


def run(w, gram, format, **options):
    order = options.get("order")
    gram = jnp.asarray(gram, jnp.float32)
    ordered = gram if order is None else gram[order][:, order]

    def solve(w, gram):
        return gptq_core(w, inverse_factor(gram, 0.0), format, **options)

    return jax.jit(solve)(jnp.asarray(w), ordered)


def lost(w, what, gram) -> float:
    change = np.asarray(w, np.float64) - np.asarray(what, np.float64)
    return float(np.sum(change * (gram.astype(np.float64) @ change)))


def twin(w: np.ndarray, gram: np.ndarray, q: quantization.QTensor) -> np.ndarray:
    """Row by row, with the inverse for the rows that are left computed anew each time: nearest
    values of symmetric int codes on the grids that were found."""
    scale = np.asarray(q.scale, np.float64)
    size = q.format.group_size or len(w)
    w, gram, top = w.astype(np.float64), gram.astype(np.float64), 2 ** (q.format.grid.bits - 1) - 1
    for i in range(len(w)):
        inverse = np.linalg.inv(gram[i:, i:])
        step = scale[i // size]
        new = np.clip(np.round(w[i] / step), -top, top) * step
        w[i:] -= inverse[0][:, None] * (w[i] - new) / inverse[0, 0]
        w[i] = new
    return w


@pytest.mark.parametrize("name", ["a scale an output", "groups", "a short last group"])
@pytest.mark.parametrize("block", [16, 32, 128])
def test_it_is_its_slow_twin(name: str, block: int):
    w, x = problem()
    gram = x.T @ x
    found = run(w, gram, FORMATS[name], block=block)
    same = np.isclose(dequantize(found.q), twin(w, gram, found.q), atol=1e-5)
    assert same.mean() > 0.98  # a value between two codes may fall either way


@pytest.mark.parametrize("name", FORMATS)
def test_with_inputs_that_are_alike_it_is_plain_rounding(name: str):
    w, _ = problem()
    found = run(w, 7.0 * np.eye(INPUTS), FORMATS[name])
    plain = jax.jit(lambda w: quantize(w, FORMATS[name]))(w)
    jax.tree.map(np.testing.assert_array_equal, found.q, plain)


@pytest.mark.parametrize("name", ["groups", "a short last group", "zero points"])
@pytest.mark.parametrize("how", ["dynamic", "static", "act_order"])
def test_pruned_weights_stay_zero_and_the_others_make_up_for_them(name: str, how: str):
    w, x = problem()
    w[np.abs(w) < 0.7] = 0
    gram = x.T @ x
    order = activity_order(jnp.asarray(gram)) if how == "act_order" else None
    options = {"order": order} if how == "act_order" else {"groups": how}
    found = run(w, gram, FORMATS[name], **options)
    new = np.asarray(dequantize(found.q))
    assert (new[w == 0] == 0).all()
    np.testing.assert_allclose(found.loss, lost(w, new, gram), rtol=1e-3)
    plain = dequantize(quantize(jnp.asarray(w), FORMATS[name]))
    assert lost(w, new, gram) < lost(w, plain, gram)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ["dynamic", "static", "act_order"])
def test_it_loses_less_than_plain_rounding_and_tells_the_truth(name: str, how: str):
    w, x = problem()
    gram = x.T @ x
    order = activity_order(jnp.asarray(gram)) if how == "act_order" else None
    options = {"order": order} if how == "act_order" else {"groups": how}
    found = run(w, gram, FORMATS[name], **options)
    quantization.check(found.q)
    true = lost(w, dequantize(found.q), gram)
    np.testing.assert_allclose(found.loss, true, rtol=1e-3)
    assert true < 0.95 * lost(w, dequantize(quantize(jnp.asarray(w), FORMATS[name])), gram)
