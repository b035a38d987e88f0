"""Inputs in few bits: PACT against its equations, and levels wired into a function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import calibration, graph
from wlab.quantization import Clip, fake_quant_inputs, levels_of, pact

RULES = [("b", Clip(4)), (".*", None)]


def inputs(n=24, m=6, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, m)), jnp.float32)


def network(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def weights():
    return {"a": inputs(6, 5, seed=1), "b": inputs(5, 3, seed=2)}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pact_is_its_equations(signed, dtype):
    x, level, clip = inputs().astype(dtype), jnp.float32(0.9), Clip(4, signed)
    seen, pull = jax.vjp(lambda x, level: pact(x, level, clip), x, level)
    cotangent = inputs(seed=3).astype(dtype)
    to_x, to_level = pull(cotangent)
    w, back = np.asarray(x, np.float64), np.asarray(cotangent, np.float64)
    n = 7 if signed else 15
    clipped = np.clip(w, -0.9 if signed else 0, 0.9)
    assert seen.dtype == dtype and to_x.dtype == dtype
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(
        np.asarray(seen, np.float64), np.rint(clipped * n / 0.9) * 0.9 / n, rtol=tolerance
    )
    np.testing.assert_array_equal(np.asarray(to_x, np.float64), np.where(clipped == w, back, 0))
    sides = (w >= 0.9).astype(float) - (w <= -0.9) * signed
    assert sides.any()
    np.testing.assert_allclose(to_level, np.sum(back * sides), rtol=1e-5)
    _, pushed = jax.jvp(lambda level: pact(x, level, clip), (level,), (jnp.float32(2),))
    np.testing.assert_array_equal(np.asarray(pushed, np.float64), 2 * sides)


def test_a_level_at_zero_hides_everything_and_can_still_learn():
    value, slope = jax.value_and_grad(lambda a: jnp.sum(pact(inputs(), a, Clip(4))))(jnp.zeros(()))
    assert abs(float(value)) < 1e-20
    assert float(slope) == (np.asarray(inputs()) > 0).sum()


def test_chosen_inputs_are_rounded_and_levels_have_gradients():
    x, params, levels = inputs(), weights(), {"b": jnp.float32(1.3)}
    fn = fake_quant_inputs(graph.read(network, params, x), RULES)

    def by_hand(params, levels, x):
        return pact(jax.nn.relu(x @ params["a"]), levels["b"], Clip(4)) @ params["b"]

    for f in (fn, jax.jit(fn)):
        np.testing.assert_allclose(f(params, levels, x), by_hand(params, levels, x), rtol=1e-5)
    found, expected = (
        jax.grad(lambda p, a, f=f: jnp.sum(jnp.sin(f(p, a, x))), (0, 1))(params, levels)
        for f in (fn, by_hand)
    )
    assert expected[1]["b"] != 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


def test_levels_are_the_largest_inputs_of_the_batches():
    params, batches = weights(), [(inputs(seed=s),) for s in range(3)]
    found = calibration.collect(network, params, batches, calibration.absmax())
    levels = levels_of(found, RULES)
    hidden = [np.maximum(np.asarray(x) @ np.asarray(params["a"]), 0) for (x,) in batches]
    assert list(levels) == ["b"] and levels["b"].shape == ()
    np.testing.assert_allclose(levels["b"], np.max(hidden), rtol=1e-6)
    fn = fake_quant_inputs(graph.read(network, params, *batches[0]), [("b", Clip(8)), ("a", None)])
    exact = network(params, *batches[0])
    error = jnp.linalg.norm(fn(params, levels, *batches[0]) - exact) / jnp.linalg.norm(exact)
    assert 0 < float(error) < 0.01


def test_mistakes_are_named():
    read = graph.read(network, weights(), inputs())
    with pytest.raises(ValueError, match="bits must be 2 to 8, got 1"):
        Clip(1)
    with pytest.raises(ValueError, match=r"levels are needed for \['b'\], and given for \['a'\]"):
        fake_quant_inputs(read, RULES)(weights(), {"a": jnp.ones(())}, inputs())
    with pytest.raises(ValueError, match="'c'"):
        fake_quant_inputs(read, [("c", Clip(4)), (".*", None)])
    shifted = graph.read(
        lambda p, x: x @ p["a"] + p["c"][None], {"a": inputs(6, 5), "c": jnp.ones(5)}, inputs()
    )
    with pytest.raises(ValueError, match="'c' is in no product"):
        fake_quant_inputs(shifted, [("c", Clip(4)), (".*", None)])
