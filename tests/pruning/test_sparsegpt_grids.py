"""SparseGPT with a grid: a plain loop in float64, GPTQ at its one end, magnitude at the other."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import quantization
from wlab.calibration import inverse_factor
from wlab.pruning import Neighbours, PerLeaf, sparsegpt
from wlab.pruning.second_order import solve
from wlab.quantization import Format, Integers, dequantize, gptq_core, int4, integer, quantize
from wlab.quantization.row_grids import row_grids

PATTERNS = {"half of a block": None, "2:4": Neighbours(keep=2, of=4)}
BLOCK = 8


def kernel_and_gram(inputs: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, inputs)) @ (np.eye(inputs) + rng.normal(size=(inputs, inputs)) / 4)
    return rng.normal(size=(inputs, 5)).astype(np.float32), (x.T @ x).astype(np.float32)


@partial(jax.jit, static_argnames=("pattern", "format"))
def solved(w, gram, *, format, pattern=None, density=0.5):
    """The answer with grids of a format, damping 0, and what is written."""
    pattern, factor = pattern or PerLeaf(density), inverse_factor(gram, 0.0)
    if format is None:
        return solve(w, gram, factor, pattern, block=BLOCK), None
    grid = row_grids(format)(w)
    found = solve(w, gram, factor, pattern, round=grid.round, block=BLOCK)
    return found, grid.write(found.kernel)


nearest = jax.jit(quantize, static_argnames="format")
values = jax.jit(dequantize)


def row_by_row(w: np.ndarray, gram: np.ndarray, pattern: Any, bits: int, group: int) -> Any:
    """SparseGPT with a grid as in its paper: each row's error goes to all later rows at once."""
    w, gram = w.astype(np.float64), gram.astype(np.float64)
    top, inputs = 2 ** (bits - 1) - 1, len(w)
    ends = [np.abs(w[i : i + group]).max(0) for i in range(0, inputs, group)]
    scale = np.repeat(np.stack(ends) / top, group, axis=0)[:inputs].astype(np.float16)
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    stays = np.ones(w.shape, bool)
    size = pattern.of if isinstance(pattern, Neighbours) else BLOCK
    for i in range(inputs):
        if i % size == 0:
            scores = (w[i : i + size] / np.diag(upper)[i : i + size, None]) ** 2
            if isinstance(pattern, Neighbours):
                stays[i : i + size] = np.argsort(np.argsort(-scores, axis=0), axis=0) < pattern.keep
            else:
                half = np.sort(scores, axis=None)[scores.size // 2]
                stays[i : i + size] = scores >= half
        step = scale[i].astype(np.float64)
        new = np.where(stays[i], np.clip(np.round(w[i] / step), -top, top) * step, 0)
        error = (w[i] - new) / upper[i, i]
        w[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
        w[i] = new
    return w


@pytest.mark.parametrize("name", PATTERNS)
def test_rows_are_those_of_a_plain_loop(name):
    kernel, gram = kernel_and_gram()
    found, _ = solved(kernel, gram, pattern=PATTERNS[name], format=FORMATS["groups"])
    expected = row_by_row(kernel, gram, PATTERNS[name], 3, 8)
    np.testing.assert_allclose(found.kernel, expected, rtol=1e-3, atol=1e-6)
    assert not np.asarray(found.kernel)[expected == 0].any()


FORMATS = {
    "groups": integer(3, group_size=8, scale_dtype="float16"),  # the last one is short
    "zero points": int4(symmetric=False, group_size=8),
}


@pytest.mark.parametrize("name", FORMATS)
def test_where_all_weights_stay_it_is_gptq_bit_for_bit(name):
    kernel, gram = kernel_and_gram()
    gptq = jax.jit(
        lambda w, gram: gptq_core(
            w, inverse_factor(gram, 0.0), FORMATS[name], groups="static", block=BLOCK
        )
    )
    q, _ = gptq(kernel, gram)
    found, written = solved(kernel, gram, density=1.0, format=FORMATS[name])
    np.testing.assert_array_equal(found.kernel, values(q))
    jax.tree.map(np.testing.assert_array_equal, written, q)


@pytest.mark.parametrize("name", FORMATS)
def test_alike_inputs_are_pruned_by_magnitude_and_rounded_to_nearest(name):
    kernel, _ = kernel_and_gram()
    found, written = solved(kernel, np.eye(12, dtype=np.float32), format=FORMATS[name])
    places = [np.abs(kernel[i : i + 8]) for i in (0, 8)]
    mask = np.concatenate([each >= np.sort(each, axis=None)[each.size // 2] for each in places])
    plain = values(nearest(kernel, FORMATS[name]))
    np.testing.assert_array_equal(found.kernel, np.where(mask, plain, 0))
    np.testing.assert_array_equal(values(written), found.kernel)


@pytest.mark.long
def test_on_a_fine_grid_it_is_sparsegpt():
    kernel, gram = kernel_and_gram()
    kernel[0] = 8  # so that no weight that others are added to is beyond its grid
    found, _ = solved(kernel, gram, format=integer(8))
    plain, _ = solved(kernel, gram, format=None)
    alike = np.asarray(found.mask == plain.mask).all(0)  # no near tie fell the other way
    assert alike.sum() >= 4
    away = np.abs(found.kernel - plain.kernel)[:, alike].max() / (8 / 127)
    assert 0.3 < away < 3


@pytest.mark.long
def test_it_loses_less_than_rounding_afterwards():
    kernel, gram = kernel_and_gram()
    jointly, _ = solved(kernel, gram, density=0.9, format=FORMATS["groups"])
    plain, _ = solved(kernel, gram, density=0.9, format=None)
    written = nearest(kernel, FORMATS["groups"])
    step = np.repeat(np.asarray(written.scale, np.float32), 8, axis=0)[:12]
    rounded = np.clip(np.round(plain.kernel / step), -3, 3) * step
    lost = [np.sum((kernel - w) * (gram @ (kernel - w))) for w in (jointly.kernel, rounded)]
    np.testing.assert_allclose(jointly.loss, lost[0], rtol=1e-3)
    assert lost[0] < 0.8 * lost[1]


def network(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"].T


@pytest.fixture
def params():
    rng = np.random.default_rng(1)
    return {name: (rng.normal(size=(8, 8)) / 3).astype(np.float32) for name in ("up", "down")}


@pytest.fixture
def batches():
    rng = np.random.default_rng(3)
    mixed = np.eye(8) + rng.normal(size=(8, 8)) / 3
    return [((rng.normal(size=(40, 8)) @ mixed).astype(np.float32),)]


GRIDS = [(".*", row_grids(integer(3, group_size=8, scale_dtype="float16")))]
RULES = [(".*", Neighbours(keep=2, of=4))]


def test_leaves_have_their_zeros_lie_on_their_grids_and_are_written(params, batches):
    found = sparsegpt(network, params, batches, RULES, grids=GRIDS)
    for path, turned in (("up", np.asarray), ("down", np.transpose)):
        matrix = turned(found.params[path])
        assert ((matrix.reshape(-1, 4, matrix.shape[1]) != 0).sum(1) <= 2).all()
        quantization.check(found.written[path])
        np.testing.assert_array_equal(matrix, values(found.written[path]))
        own = nearest(turned(params[path]), found.written[path].format)
        np.testing.assert_array_equal(found.written[path].scale, own.scale)
    x = np.asarray(batches[0][0], np.float64)
    dense, new = (np.asarray(tree["up"], np.float64) for tree in (params, found.params))
    true = np.sum((x @ (dense - new)) ** 2) / np.sum((x @ dense) ** 2)
    np.testing.assert_allclose(found.losses["up"], true, rtol=1e-3)


def test_layers_of_a_scan_and_half_precision(batches):
    stack = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(jnp.bfloat16)

    def scanned(p, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]

    x = batches[0][0].astype(jnp.bfloat16)
    found = sparsegpt(scanned, {"w": stack}, [(x,)], RULES, grids=GRIDS)
    leaf, q = found.params["w"], found.written["w"]
    assert leaf.dtype == jnp.bfloat16
    assert (np.asarray(leaf != 0).reshape(2, 2, 4, 8).sum(2) <= 2).all()
    plain = jax.jit(jax.vmap(dequantize))(q)
    np.testing.assert_array_equal(np.asarray(plain).astype(leaf.dtype), leaf)


@pytest.mark.parametrize(
    "format",
    [Format(Integers(4, symmetric=False, zero="minimum")), quantization.binary(axis=None)],
    ids=str,
)
def test_grids_without_a_zero_are_refused(format):
    with pytest.raises(ValueError, match="has no zero, which pruned weights are"):
        row_grids(format)


def test_grids_of_a_leaf_that_is_not_pruned_are_refused(params, batches):
    rules = [("up", PerLeaf(0.5)), (".*", None)]
    with pytest.raises(ValueError, match=r"'down' has grids and no pattern; .* PerLeaf\(1.0\)"):
        sparsegpt(network, params, batches, rules, grids=GRIDS)


def test_grids_that_a_leaf_cannot_take_are_refused_by_name(params, batches):
    grids = [(".*", row_grids(int4(axis=-3)))]
    with pytest.raises(ValueError, match=r"the grids of '(up|down)': .*axis -3 is out of range"):
        sparsegpt(network, params, batches, RULES, grids=grids)
