"""What every initializer promises, one row each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import initializers

SHAPE = (3, 8, 16)
CONSTANT = {
    "zeros": initializers.zeros,
    "ones": initializers.ones,
    "constant": initializers.constant(0.5),
}
RANDOM = {
    "normal": initializers.normal(0.02),
    "truncated_normal": initializers.truncated_normal(0.02),
    "uniform": initializers.uniform(0.1),
    "sparse": initializers.sparse(0.25),
    "glorot_normal": initializers.glorot_normal(),
    "glorot_uniform": initializers.glorot_uniform(),
    "he_normal": initializers.he_normal(),
    "he_uniform": initializers.he_uniform(),
    "lecun_normal": initializers.lecun_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "truncated_he": initializers.variance_scaling(
        2**0.5, "fan_in", distribution="truncated_normal"
    ),
    "orthogonal": initializers.orthogonal(),
    "delta_orthogonal": initializers.delta_orthogonal(),
    "residual_scaled": initializers.residual_scaled(initializers.he_normal(), 12),
}
EVERY = CONSTANT | RANDOM


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", EVERY)
def test_shape_and_dtype_are_those_asked_for(name, dtype, key):
    drawn = EVERY[name](key, SHAPE, dtype)
    assert (drawn.shape, drawn.dtype) == (SHAPE, dtype)
    assert isinstance(EVERY[name], initializers.Initializer)


@pytest.mark.parametrize("name", EVERY)
def test_the_dtype_is_float32_unless_asked_and_the_abstract_value_agrees(name, key):
    assert EVERY[name](key, SHAPE).dtype == jnp.float32
    abstract = jax.eval_shape(lambda k: EVERY[name](k, SHAPE), key)
    assert (abstract.shape, abstract.dtype) == (SHAPE, jnp.float32)


@pytest.mark.parametrize("name", RANDOM)
def test_bfloat16_weights_are_the_float32_ones_rounded_once(name, key):
    rounded = RANDOM[name](key, SHAPE, jnp.float32).astype(jnp.bfloat16)
    np.testing.assert_array_equal(RANDOM[name](key, SHAPE, jnp.bfloat16), rounded)


def test_compiled_equals_eager(key):
    def draw(key):
        return {name: init(key, SHAPE) for name, init in EVERY.items()}

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), jax.jit(draw)(key), draw(key)
    )


@pytest.mark.parametrize("name", RANDOM)
def test_random_integers_are_refused(name, key):
    with pytest.raises(ValueError, match="floating-point numbers, got int32"):
        RANDOM[name](key, SHAPE, jnp.int32)


def test_a_deviation_may_differ_between_the_members_of_a_population(key):
    stds = jnp.array([0.1, 1.0])
    weights = jax.vmap(lambda std: initializers.normal(std)(key, (64,)))(stds)
    np.testing.assert_allclose(weights[1], 10 * weights[0], rtol=1e-6)


def test_constants_are_constant_in_any_dtype(key):
    np.testing.assert_array_equal(initializers.zeros(key, (2,), jnp.int8), np.zeros(2))
    np.testing.assert_array_equal(initializers.ones(key, (2,)), np.ones(2))
    np.testing.assert_array_equal(initializers.constant(0.5)(key, (2,)), [0.5, 0.5])


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "factory",
    [
        initializers.normal,
        initializers.truncated_normal,
        initializers.uniform,
        lambda std: initializers.sparse(0.5, std=std),
        lambda gain: initializers.he_normal(gain=gain),
        lambda gain: initializers.orthogonal(gain=gain),
        lambda gain: initializers.delta_orthogonal(gain=gain),
    ],
)
def test_a_width_that_is_not_positive_is_refused(factory, bad):
    with pytest.raises(ValueError, match="must be positive and finite"):
        factory(bad)
