"""Bias correction: means of outputs before and after, of layers of many shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import calibration
from wlab.quantization import bias_correction, dequantize_tree, int2, int3, quantize_tree


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def added(y, bias):
    return y + jnp.broadcast_to(bias, y.shape)


def dense(params, x):
    return added(x @ params["w"], params["b"])


def heads(params, x):
    return added(jnp.einsum("nd,dhk->nhk", x, params["w"]), params["b"])


def experts(params, x):
    return jnp.einsum("nd,edf->enf", x, params["w"]) + params["b"][:, None]


def convolved(params, x, groups):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, params["w"], (2, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )
    return added(y, params["b"])


LAYERS = {  # function, kernel, bias, inputs, the axes of outputs that are rows
    "dense": (dense, (6, 4), (4,), (5, 6), (0,)),
    "tokens": (dense, (6, 4), (4,), (3, 5, 6), (0, 1)),
    "heads": (heads, (6, 2, 3), (2, 3), (5, 6), (0,)),
    "experts": (experts, (3, 6, 2), (3, 2), (5, 6), (1,)),
    "convolution": (lambda p, x: convolved(p, x, 1), (3, 3, 4, 6), (6,), (2, 5, 5, 4), (0, 1, 2)),
    "groups": (lambda p, x: convolved(p, x, 2), (3, 3, 2, 6), (6,), (2, 5, 5, 4), (0, 1, 2)),
}


@pytest.mark.parametrize(
    ("name", "packed"), [*((name, False) for name in LAYERS), ("dense", True), ("groups", True)]
)
def test_the_mean_of_every_output_is_where_it_was(name, packed):
    fn, kernel, bias, inputs, rows = LAYERS[name]
    params = {"w": normal(*kernel), "b": normal(*bias, seed=1)}
    batches = [(normal(*inputs, seed=i) + 1,) for i in (2, 3, 4)]
    given = {"w": jnp.round(params["w"]), "b": params["b"]}
    if packed:
        given = jax.jit(lambda p: quantize_tree(p, [("w", int2(axis=-1)), ("b", None)]))(params)
    found = bias_correction(fn, params, given, batches, {"w": "b"})
    jax.tree.map(np.testing.assert_array_equal, found["w"], given["w"])
    values = dequantize_tree(found)

    def means(params):
        run = jax.jit(fn)
        y = np.concatenate([np.asarray(run(params, x), np.float64) for (x,) in batches], rows[0])
        return y.mean(rows)

    np.testing.assert_allclose(means(values), means(params), atol=2e-6)
    assert np.abs(means({**values, "b": params["b"]}) - means(params)).max() > 0.05


def network(params, x):
    def block(x, layer):
        return jnp.tanh(dense(layer, x)), None

    x, _ = jax.lax.scan(block, x, params["blocks"])
    return dense(params["head"], x)


def test_each_layer_makes_up_for_its_own_rounding():
    blocks = {"w": normal(3, 6, 6) / 2, "b": normal(3, 6, seed=1)}
    params = {"blocks": blocks, "head": {"w": normal(6, 4, seed=2), "b": normal(4)}}
    batches = [(normal(5, 6, seed=i),) for i in (3, 4)]
    rounded = jax.tree.map(lambda x: jnp.round(2 * x) / 2 if x.ndim > 1 else x, params)
    rounded["blocks"]["b"] = params["blocks"]["b"]
    pairs = {"blocks/w": "blocks/b", "head/w": "head/b"}
    found = bias_correction(network, params, rounded, batches, pairs)
    x = np.concatenate([np.asarray(x, np.float64) for (x,) in batches])

    def error(x, old, new):
        return (x @ (old["w"] - new["w"]) + old["b"] - new["b"]).mean(0)

    before, after = (jax.tree.map(lambda x: np.asarray(x, np.float64), t) for t in (params, found))
    for i in range(3):
        old, new = (jax.tree.map(lambda x, i=i: x[i], t["blocks"]) for t in (before, after))
        np.testing.assert_allclose(error(x, old, new), 0, atol=1e-6)
        x = np.tanh(x @ old["w"] + old["b"])
    np.testing.assert_allclose(error(x, before["head"], after["head"]), 0, atol=1e-6)


def test_a_bias_that_two_kernels_have_takes_both_corrections():
    params = {"w": normal(6, 4), "u": normal(6, 4, seed=1), "b": normal(4)}
    rounded = {**params, "w": jnp.round(params["w"]), "u": jnp.round(params["u"])}

    def fn(params, x):
        return added(x @ params["w"] + jnp.square(x) @ params["u"], params["b"])

    x = normal(9, 6, seed=5)
    found = bias_correction(fn, params, rounded, [(x,)], {"w": "b", "u": "b"})
    np.testing.assert_allclose(fn(found, x).mean(0), fn(params, x).mean(0), atol=2e-6)


def test_nothing_changes_where_nothing_was_rounded_and_dtypes_stay():
    params = {"w": normal(6, 4).astype(jnp.bfloat16), "b": normal(4).astype(jnp.bfloat16)}
    batch = (normal(5, 6).astype(jnp.bfloat16),)
    found = bias_correction(dense, params, params, [batch], {"w": "b"})
    assert found["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["b"], params["b"])


def test_the_mean_of_inputs_is_that_of_all_rows():
    batches = [(normal(4 + i, 6, seed=i),) for i in range(3)]
    params = {"w": normal(6, 4), "b": normal(4)}
    seen = calibration.collect(dense, params, batches, calibration.mean())["w"]
    x = np.concatenate([np.asarray(x, np.float64) for (x,) in batches])
    assert isinstance(seen, calibration.Sums) and int(seen.rows) == 15
    np.testing.assert_allclose(seen.mean, x.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        ({}, "no pair"),
        ({"v": "b"}, r"'v' is in no product .* those that are: \['w'\]"),
        ({"w": "c"}, "no array at 'c'"),
        ({"w": "wrong"}, "'w' has 4 outputs, and the bias 'wrong' 3 entries"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(pairs, complaint):
    params = {"w": normal(6, 4), "b": normal(4), "wrong": normal(3)}
    with pytest.raises(ValueError, match=complaint):
        bias_correction(dense, params, params, [(normal(5, 6),)], pairs)


def test_a_quantized_bias_and_another_kernel_are_refused():
    params, batches = {"w": normal(6, 4), "b": normal(4)}, [(normal(5, 6),)]
    rounded = jax.jit(lambda p: quantize_tree(p, [(".*", int3())]))(params)
    with pytest.raises(ValueError, match="not be quantized"):
        bias_correction(dense, params, rounded, batches, {"w": "b"})
    other = {"w": normal(4, 6), "b": params["b"]}
    with pytest.raises(ValueError, match=r"\(6, 4\) before rounding and \(4, 6\) after"):
        bias_correction(dense, params, other, batches, {"w": "b"})
    with pytest.raises(TypeError, match="list of tuples"):
        bias_correction(dense, params, params, [normal(5, 6)], {"w": "b"})
