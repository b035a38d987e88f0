"""What initial weights do to signals and to learning: figures known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import initializers


def mean_square_per_layer(init, key, *, width=512, depth=30):
    """The geometric mean, over layers, of how the mean square of a ReLU net changes."""

    def layer(x, k):
        y = jax.nn.relu(x) @ init(k, (width, width))
        return y, None

    x = jax.random.normal(key, (32, width))
    y = jax.lax.scan(layer, x, jax.random.split(key, depth))[0]
    return float(jnp.mean(jnp.square(y)) / jnp.mean(jnp.square(x))) ** (1 / depth)


@pytest.mark.parametrize(
    ("init", "ratio"),
    [
        (initializers.he_normal(), 1.0),
        (initializers.glorot_normal(), 0.5),
        (initializers.lecun_normal(gain=3**-0.5), 1 / 6),
    ],
)
def test_mean_square_of_thirty_relu_layers(init, ratio, key):
    """A layer's log ratio has a standard error near √(5/width)/√depth = 0.018 here."""
    assert mean_square_per_layer(init, key) == pytest.approx(ratio, rel=0.06)


def test_learning_follows_the_closed_form_of_saxe(key):
    """Decoupled orthogonal starts: each mode's strength obeys u(t), for four strengths s."""
    strengths, u0, rate, steps = np.array([4.0, 3.0, 2.0, 1.0]), 0.001, 1e-3, 6000
    key_1, key_2, key_r = jax.random.split(key, 3)
    init = initializers.orthogonal(gain=u0**0.5)
    weights = (init(key_1, (4, 4)), init(key_2, (4, 4)))
    modes = initializers.orthogonal()(key_r, (4, 4))
    left, right = weights[0] @ modes / u0**0.5, modes.T @ weights[1] / u0**0.5
    target = left @ jnp.diag(jnp.asarray(strengths, jnp.float32)) @ right

    def loss(weights):
        return jnp.sum(jnp.square(weights[0] @ weights[1] - target)) / 2

    def step(weights, _):
        grads = jax.grad(loss)(weights)
        weights = jax.tree.map(lambda w, g: w - rate * g, weights, grads)
        return weights, jnp.diag(left.T @ weights[0] @ weights[1] @ right.T)

    _, measured = jax.lax.scan(step, weights, length=steps)
    time = rate * np.arange(1, steps + 1)[:, None]
    growth = np.exp(2 * strengths * time)
    closed_form = strengths * growth / (growth - 1 + strengths / u0)
    np.testing.assert_allclose(measured, closed_form, atol=0.01 * strengths.max())
    half = np.argmax(np.asarray(measured) > strengths / 2, axis=0) * rate
    np.testing.assert_allclose(half, np.log(strengths / u0 - 1) / (2 * strengths), rtol=0.02)


@pytest.mark.parametrize("kernel", [initializers.zeros, initializers.constant(0.1)])
def test_units_that_start_alike_stay_alike(kernel, key):
    params = {
        "hidden": kernel(key, (5, 8)),
        "bias": initializers.zeros(key, (8,)),
        "out": kernel(key, (8, 3)),
    }
    trained = train(params, key)
    assert np.ptp(trained["hidden"], axis=1).max() < 1e-5
    assert np.ptp(trained["out"], axis=0).max() < 1e-5


def test_units_that_start_at_random_learn_different_things(key):
    init = initializers.lecun_normal()
    params = {
        "hidden": init(key, (5, 8)),
        "bias": initializers.zeros(key, (8,)),
        "out": init(jax.random.key(1, impl="rbg"), (8, 3)),
    }
    trained = train(params, key)
    assert np.ptp(trained["hidden"], axis=1).min() > 0.1


def train(params, key):
    x = jax.random.normal(key, (16, 5))
    y = jnp.stack([x[:, 0] * x[:, 1], jnp.sin(x[:, 2]), x[:, 3]], axis=1)

    def loss(p):
        hidden = jnp.tanh(x @ p["hidden"] + p["bias"][None])
        return jnp.mean(jnp.square(hidden @ p["out"] - y))

    def step(params, _):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)), None

    return jax.lax.scan(step, params, length=100)[0]
