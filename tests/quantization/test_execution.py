"""Functions on quantized weights: what they give with the dequantized ones, and how."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wlab import models, quantization
from wlab.models.llama import LlamaConfig
from wlab.quantization import (
    Format,
    Integers,
    binary,
    bnb_nf4,
    fp4_e2m1,
    fp6_e2m3,
    fp8_e4m3,
    fp8_e5m2,
    int2,
    int3,
    int4,
    int5,
    int6,
    int8,
    integer,
    nf4,
    presets,
    ternary,
)
from wlab.quantization.execution.running import executable, run

PRESETS = {name: x for name, x in vars(presets).items() if isinstance(x, Format)}
FORMATS = PRESETS | {
    "asymmetric": integer(4, symmetric=False, group_size=8),
    "minimum": Format(Integers(4, symmetric=False, zero="minimum"), group_size=8),
    "short_group": int4(group_size=24),
    "blocks": integer(8, axis=(-2, -1), group_size=(8, 16)),
    "binary": binary(),
    "bnb_nf4_inputs": nf4(group_size=16),
    "fp4": fp4_e2m1(group_size=8, scale_dtype="float16"),
    "fp6": fp6_e2m3(),
    "fp8": fp8_e4m3(),
    "fp8_wide": fp8_e5m2(axis=None),
    "int2": int2(),
    "int3": int3(group_size=16),
    "int4": int4(group_size=16),
    "int5": int5(),
    "int6": int6(),
    "int8": int8(),
    "ternary": ternary(),
}
SHORT = ("asymmetric", "short_group", "nvfp4", "bnb_nf4_inputs", "int8")
BOTH = [(".*", "w8a8")]


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def close(found, expected, within=2e-6):
    def one(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=within * float(np.abs(b).max()))

    jax.tree.map(one, found, expected)


def quantize_tree(params, rules):
    return jax.jit(lambda params: quantization.quantize_tree(params, rules))(params)


dequantize_tree = jax.jit(quantization.dequantize_tree)


def apart(params, x):
    return {name: jnp.tanh(x) @ w for name, w in params.items()}


@pytest.mark.parametrize("names", [SHORT, pytest.param(tuple(FORMATS), marks=pytest.mark.long)])
def test_every_format_gives_what_its_dequantized_weights_give(names):
    params = {name: numbers(64, 32, seed=i) for i, name in enumerate(names)}
    rules = [(name, FORMATS[name]) for name in names]
    quantized = quantize_tree(params, rules)
    x = numbers(3, 64)
    made = executable(apart, quantized, x, least_tiled=1)
    assert set(made.ways.values()) == {"weight_only"}
    expected = jax.jit(lambda q, x: apart(dequantize_tree(q), x))(quantized, x)
    found = jax.jit(made.apply)(quantized, x)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5, err_msg=name)


def mlp(params, x):
    hidden = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return hidden @ params["last"]


def layers():
    first = {"kernel": numbers(64, 48, seed=1), "bias": numbers(48, seed=2)}
    return {"first": first, "last": numbers(48, 10, seed=3)}


def quantized(format=None, params=None):
    rules = [(".*bias", None), (".*", format or int4(group_size=16))]
    return quantize_tree(layers() if params is None else params, rules)


@pytest.mark.parametrize("rules", [[(".*", "weight_only")], BOTH])
def test_gradients_in_the_inputs_are_those_of_the_dequantized_weights(rules):
    q, x = quantized(), numbers(4, 64)
    made = executable(lambda p, x: x @ p["first"]["kernel"], q, x, rules=rules, least_tiled=1)
    prepared, weights = made.prepare(q), dequantize_tree(q)["first"]["kernel"]
    slope = numbers(4, 48, seed=5)
    found = jax.jit(jax.grad(lambda x: jnp.sum(made.apply(prepared, x) * slope)))(x)
    close(found, slope @ weights.T)


@pytest.mark.parametrize("rules", [[(".*", "weight_only")], BOTH])
def test_it_is_mapped_over_inputs(rules):
    q, x = quantized(), numbers(3, 4, 64)
    made = executable(mlp, q, x[0], rules=rules, least_tiled=1)
    prepared, together = made.prepare(q), jax.jit(made.apply)
    expected = jnp.stack([together(prepared, each) for each in x])
    close(jax.jit(jax.vmap(made.apply, (None, 0)))(prepared, x), expected)
    close(
        expected, jax.vmap(mlp, (None, 0))(dequantize_tree(q), x), 2e-6 if rules != BOTH else 0.05
    )


def test_a_large_matrix_is_never_dequantized_whole():
    q = quantize_tree({"w": numbers(512, 512)}, [("w", int4(group_size=128))])
    shapes = jax.ShapeDtypeStruct((1, 512), jnp.float32)

    def temporaries(least_tiled):
        made = executable(lambda p, x: x @ p["w"], q, shapes, least_tiled=least_tiled)
        analysis = jax.jit(made.apply).lower(q, shapes).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    whole = 512 * 512 * 4
    assert temporaries(1 << 30) >= whole
    assert temporaries(1) <= 0.6 * whole  # a tile of a quarter, and what it is unpacked from


def lookup(params, ids):
    return jax.nn.relu(params["table"][ids]) @ params["head"]


def test_a_leaf_that_is_looked_up_is_dequantized_first():
    params = {"table": numbers(9, 16), "head": numbers(16, 9, seed=1)}
    q, ids = quantize_tree(params, [(".*", int8())]), jnp.array([3, 0, 8])
    assert executable(lookup, q, ids).ways == {"head": "weight_only", "table": "whole"}
    close(jax.jit(partial(run, lookup))(q, ids), lookup(dequantize_tree(q), ids))


def test_of_a_table_only_the_rows_that_are_looked_up_are_dequantized():
    q, ids = quantize_tree({"table": numbers(2048, 64)}, [("table", int4(axis=-1))]), jnp.arange(3)
    made = executable(lambda p, ids: p["table"][ids], q, ids)
    assert made.ways == {"table": "whole"}
    analysis = jax.jit(made.apply).lower(q, ids).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 2048 * 64 / 16


def test_a_convolution_stays_one_whatever_is_asked():
    def network(params, x):
        return jax.lax.conv_general_dilated(
            x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    q, x = quantize_tree({"w": numbers(3, 3, 4, 6)}, [("w", int8())]), numbers(2, 5, 5, 4)
    assert executable(network, q, x, rules=BOTH).ways == {"w": "weight_only"}
    close(jax.jit(partial(run, network, rules=BOTH))(q, x), network(dequantize_tree(q), x))


def stacked(params, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])[0]


@pytest.mark.parametrize("format", [int4(group_size=8), int8(axis=None), int8(axis=1)])
def test_loops_over_stacked_layers_take_codes_where_they_can_be_cut(format):
    q, x = quantize_tree({"w": numbers(3, 16, 16)}, [("w", format)]), numbers(2, 16)
    made = executable(stacked, q, x, least_tiled=1)
    assert made.ways == {"w": "weight_only" if format.axis == -2 else "whole"}
    close(jax.jit(made.apply)(q, x), stacked(dequantize_tree(q), x))


def test_integer_products_in_a_loop_are_near_the_function():
    q, x = quantize_tree({"w": numbers(3, 16, 16)}, [("w", int8())]), numbers(2, 16)
    made = executable(stacked, q, x, rules=BOTH)
    assert made.ways == {"w": "w8a8"}
    assert made.prepare(q)["w"].codes.shape == (3, 1, 16, 16)
    close(jax.jit(made.apply)(made.prepare(q), x), stacked(dequantize_tree(q), x), 0.05)


@pytest.mark.parametrize("format", [int4(group_size=16, scale_dtype="float16"), int8(), int3()])
def test_leaves_in_tiles_mean_the_same_in_loops_too(format):
    q, x = quantize_tree({"w": numbers(3, 32, 32)}, [("w", format)]), numbers(2, 32)
    made = executable(stacked, q, x, rules=[("w", "kernel")])
    assert made.ways == {"w": "kernel"}
    prepared = jax.jit(made.prepare)(q)
    assert prepared["w"].bits == (8 if format == int8() else 4)
    close(jax.jit(made.apply)(prepared, x), stacked(dequantize_tree(q), x))


def test_heads_of_attention_are_matrices_of_integers():
    def queries(params, x):
        return jnp.einsum("btd,dhk->bthk", x, params["q"])

    q, x = quantize_tree({"q": numbers(16, 3, 8)}, [("q", int8(axis=0))]), numbers(2, 5, 16)
    made = executable(queries, q, x, rules=BOTH)
    assert made.ways == {"q": "w8a8"}
    close(jax.jit(made.apply)(made.prepare(q), x), queries(dequantize_tree(q), x), 0.02)


def test_scales_that_do_not_span_the_inputs_keep_the_weights_meaning():
    q, x = quantize_tree({"w": numbers(16, 8)}, [("w", int8(axis=-1))]), numbers(2, 16)
    made = executable(lambda p, x: x @ p["w"], q, x, rules=BOTH)
    assert made.ways == {"w": "weight_only"}
    close(jax.jit(made.apply)(made.prepare(q), x), x @ dequantize_tree(q)["w"])


def test_flax_modules_run_on_their_quantized_state():
    graphdef, state = nnx.split(nnx.Linear(16, 8, rngs=nnx.Rngs(0)))
    pure = nnx.to_pure_dict(state)

    def network(params, x):
        nnx.replace_by_pure_dict(fresh := nnx.clone(state), params)
        return nnx.merge(graphdef, fresh)(x)

    q, x = quantized(int8(), pure), numbers(2, 16)
    close(jax.jit(partial(run, network))(q, x), network(dequantize_tree(q), x))


def test_other_numbers_of_inputs_are_taken_too():
    q, x = quantized(), numbers(7, 64)
    made = executable(mlp, q, numbers(4, 64))
    close(jax.jit(made.apply)(q, x), mlp(dequantize_tree(q), x))


@pytest.mark.parametrize("rules", [[(".*", "weight_only")], BOTH])
def test_a_small_llama_runs_on_its_codes(rules):
    config = LlamaConfig(layers=1, width=16, heads=2, kv_heads=1, ffn=32, vocab=32, context=8)
    model = models.llama(config)
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = jnp.arange(8)[None]
    q = quantize_tree(params, [(".*kernel", int8()), (".*", None)])
    fn = lambda p, t: model.apply(p, t)  # noqa: E731
    made = executable(fn, q, tokens, rules=rules)
    assert set(made.ways.values()) == {rules[0][1]}
    found = jax.jit(made.apply)(made.prepare(q), tokens)
    close(found, fn(dequantize_tree(q), tokens), 1e-5 if rules is not BOTH else 0.05)


@pytest.mark.parametrize(
    ("rules", "levels", "named"),
    [
        ([(".*", "w4a4")], None, "'first/kernel' gives 'w4a4'"),
        ([("other", "w8a8")], None, "other"),
        ([(".*", "weight_only")], {"last": jnp.float32(1)}, r"levels for \['last'\]"),
    ],
)
def test_rules_and_levels_that_do_not_fit_are_named(rules, levels, named):
    with pytest.raises(ValueError, match=named):
        executable(mlp, quantized(), numbers(4, 64), rules=rules, levels=levels)


def test_bnb_s_rows_run_as_they_are():
    q, x = quantize_tree({"w": numbers(64, 128)}, [("w", bnb_nf4)]), numbers(2, 64)
    close(jax.jit(partial(run, lambda p, x: x @ p["w"]))(q, x), x @ dequantize_tree(q)["w"])
