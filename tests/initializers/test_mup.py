"""muP: the multipliers of table 3, and activations that move alike at every width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import initializers
from wlab.initializers import (
    WidthRatio,
    mup_adam,
    mup_init,
    mup_sgd,
    scale_by_path,
    scale_leaves,
    width_ratios,
)


def shapes(width, dtype=jnp.float32):
    sizes = {
        "in": {"kernel": (8, width), "bias": (width,)},
        "hidden": {"kernel": (width, width), "bias": (width,)},
        "out": {"kernel": (width, 4), "bias": (4,)},
    }
    return jax.tree.map(
        lambda size: jax.ShapeDtypeStruct(size, dtype), sizes, is_leaf=lambda x: type(x) is tuple
    )


def test_table_3_for_a_model_four_times_as_wide():
    """Yang et al. 2022, table 3: columns input and biases, hidden, output."""
    ratios = width_ratios(shapes(64), shapes(256))
    expected = {
        "in/kernel": (1, 1, 4),
        "in/bias": (1, 1, 4),
        "hidden/kernel": (1, 1 / 4, 1),
        "hidden/bias": (1, 1, 4),
        "out/kernel": (1 / 2, 1 / 4, 1 / 4),
        "out/bias": (1, 1, 1),
    }
    found = (mup_init(ratios), mup_adam(ratios), mup_sgd(ratios))
    assert {path: tuple(m[path] for m in found) for path in ratios} == expected


def test_a_model_as_wide_as_its_base_is_left_alone():
    ratios = width_ratios(shapes(64), shapes(64))
    for multipliers in (mup_init(ratios), mup_adam(ratios), mup_sgd(ratios)):
        assert set(multipliers.values()) == {1.0}


def test_declared_axes_tell_heads_embeddings_and_stacked_layers():
    def tree(width, heads):
        sizes = {
            "query": (3, width, heads, 16),
            "norm": (3, width),
            "embed": (1000, width),
            "torch": (width, 1000),
        }
        return {path: jax.ShapeDtypeStruct(size, jnp.float32) for path, size in sizes.items()}

    axes = [
        ("query", {"in_axis": 1, "out_axis": (2, 3), "batch_axis": 0}),
        ("norm", {"in_axis": (), "out_axis": 1, "batch_axis": 0}),
        ("torch", {"in_axis": 1, "out_axis": 0}),
        (".*", None),
    ]
    assert width_ratios(tree(64, 4), tree(128, 8), axes=axes) == {
        "query": WidthRatio(2, 2),
        "norm": WidthRatio(1, 2),
        "embed": WidthRatio(1, 2),
        "torch": WidthRatio(1, 2),
    }


def activations(params, x):
    y = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"][None])
    z = jnp.tanh(y @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return {"in": y, "hidden": z, "out": z @ params["out"]["kernel"] + params["out"]["bias"][None]}


def movement(width, *, optimizer, rate, is_mup, steps=3):
    """How far the coordinates of each activation move in a few steps, on average."""
    rules = [(".*kernel", initializers.lecun_normal()), (".*bias", initializers.zeros)]
    ratios = width_ratios(shapes(64), shapes(width if is_mup else 64))
    rates = (mup_adam if optimizer is optax.adam else mup_sgd)(ratios)
    tx = optax.chain(optimizer(rate), scale_by_path(rates))
    key_w, key_x, key_y = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    x, y = jax.random.normal(key_x, (16, 8)), jax.random.normal(key_y, (16, 4))
    start = scale_leaves(initializers.reinit(shapes(width), rules, key_w), mup_init(ratios))

    def step(carry, _):
        params, state = carry
        loss = lambda p: jnp.mean(jnp.square(activations(p, x)["out"] - y))  # noqa: E731
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 power
        trained = jax.lax.scan(step, (start, tx.init(start)), length=steps)[0][0]
    before, after = activations(start, x), activations(trained, x)
    return {name: float(jnp.mean(jnp.abs(after[name] - before[name]))) for name in after}


@pytest.mark.parametrize(("optimizer", "rate"), [(optax.adam, 1e-3), (optax.sgd, 0.05)])
def test_coordinates_move_alike_at_every_width_under_mup_only(optimizer, rate):
    """The coordinate check: 8 times the width, and no layer moves much more or less."""
    narrow, wide, standard = (
        movement(width, optimizer=optimizer, rate=rate, is_mup=is_mup)
        for width, is_mup in [(64, True), (512, True), (512, False)]
    )
    growth = {name: wide[name] / narrow[name] for name in wide}
    assert all(0.6 < ratio < 1.6 for ratio in growth.values()), growth
    assert max(standard[name] / narrow[name] for name in wide) > 2.5


def test_updates_are_scaled_leaf_by_leaf_and_keep_their_dtype():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    tx = optax.chain(optax.sgd(1.0), scale_by_path({"a": 0.5, "b": 2.0}))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["a"], [-0.5, -0.5])
    np.testing.assert_array_equal(updates["b"], [-2, -2])
    assert updates["a"].dtype == jnp.bfloat16


def test_masked_optimizers_hold_some_leaves_only():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = optax.masked(scale_by_path({"a": 0.5, "b": 2.0}), {"a": True, "b": False})
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["a"], [0.5, 0.5])
    np.testing.assert_array_equal(updates["b"], [1, 1])


def test_trees_that_do_not_compare_are_refused():
    def leaf(*size):
        return jax.ShapeDtypeStruct(size, jnp.float32)

    with pytest.raises(ValueError, match=r"leaves \['b'\] are in one of the two trees only"):
        width_ratios({"a": leaf(2)}, {"a": leaf(2), "b": leaf(2)})
    with pytest.raises(ValueError, match=r"leaf 'a' has shape \(2,\) in base but \(2, 2\)"):
        width_ratios({"a": leaf(2)}, {"a": leaf(2, 2)})
    with pytest.raises(ValueError, match=r"leaf 'a': Shape .* has no axis 3"):
        width_ratios({"a": leaf(2, 2)}, {"a": leaf(2, 2)}, axes=[("a", {"in_axis": 3})])
    with pytest.raises(ValueError, match=r"no multiplier for \['b'\]"):
        scale_by_path({"a": 1.0}).init({"a": jnp.ones(1), "b": jnp.ones(1)})
