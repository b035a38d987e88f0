"""Each term against closed forms, published propositions and numpy twins of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import decay

LR, RATE = 0.1, 0.2
START = np.float32([1.5, -2.0, 0.25, 0.0])
TARGET = np.float32([0.5, 1.0, -1.0, 2.0])
CURVATURE = np.float32([1.0, 0.1, 2.0, 0.5])
ALL = [(".*", RATE)]
TERMS = {
    "decoupled": decay.decoupled,
    "independent": decay.independent,
    "l2": decay.l2,
    "l1": decay.l1,
    "proximal_l1": decay.proximal_l1,
    "cautious": decay.cautious,
    "toward": decay.toward,
    "scale_by_rules": decay.scale_by_rules,
}


def bowl(params, t):
    """The gradient of ½ c (w − target)², the same at every step."""
    return {"w": CURVATURE * (params["w"] - TARGET)}


def flat(params, t):
    return jax.tree.map(jnp.zeros_like, params)


def start():
    return {"w": jnp.asarray(START)}


def one_update(tx, update, weight):
    params, updates = {"w": jnp.asarray(weight)}, {"w": jnp.asarray(update)}
    return tx.update(updates, tx.init(params), params)[0]["w"]


@pytest.mark.usefixtures("mixed_dtypes")
def test_adamw_without_gradients_shrinks_geometrically(run):
    found = run(decay.adamw(LR, ALL), start(), flat, 50)["w"]
    np.testing.assert_allclose(found, START * (1 - LR * RATE) ** 50, rtol=1e-5)


@pytest.mark.parametrize("scaled_by_lr", [True, False])
def test_for_sgd_l2_is_weight_decay_at_lr_times_the_rate(run, scaled_by_lr):
    # Loshchilov & Hutter, proposition 1: λ' = λ / α.
    l2 = run(decay.sgd(LR, ALL), start(), bowl, 20)["w"]
    if scaled_by_lr:
        other = optax.chain(decay.decoupled(ALL), optax.sgd(LR))
    else:
        other = optax.chain(optax.sgd(LR), decay.independent([(".*", LR * RATE)]))
    np.testing.assert_allclose(l2, run(other, start(), bowl, 20)["w"], rtol=1e-5)


@pytest.mark.usefixtures("mixed_dtypes")
def test_for_adam_l2_is_not_weight_decay(run):
    # Proposition 2. No rate makes them agree: nine octaves are tried.
    decayed = run(decay.adamw(LR, ALL), start(), bowl, 20)["w"]
    gaps = [
        np.abs(run(decay.adam(LR, [(".*", RATE * 2.0**k)]), start(), bowl, 20)["w"] - decayed).max()
        for k in range(-4, 5, 2)
    ]
    assert min(gaps) > 0.01


def test_with_a_fixed_preconditioner_decay_is_scale_adjusted_l2(run):
    # Proposition 3: dividing gradients by s, decay λ is L2 at λ s.
    scales = {"a": 4.0, "b": 0.5}
    params = {"a": jnp.asarray(START), "b": jnp.asarray(START)}

    def grad(params, t):
        return jax.tree.map(lambda w: CURVATURE * (w - TARGET), params)

    divide = decay.scale_by_rules([(name, 1 / s) for name, s in scales.items()])
    l2 = decay.l2([(name, RATE * s) for name, s in scales.items()])
    adjusted = run(optax.chain(l2, divide, optax.sgd(LR)), params, grad, 20)
    decayed = run(optax.chain(divide, decay.decoupled(ALL), optax.sgd(LR)), params, grad, 20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), adjusted, decayed)


@pytest.mark.usefixtures("mixed_dtypes")
def test_independent_is_the_papers_adamw(run):
    # Algorithm 2 in float64, with a schedule multiplier η_t on both terms.
    def multiplier(t):
        return 1 / (1 + t)

    w, m, v = START.astype(np.float64), np.zeros(4), np.zeros(4)
    for t in range(1, 11):
        g = CURVATURE * (w - TARGET)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        scaled = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - multiplier(t - 1) * (LR * scaled + RATE * w)

    tx = optax.chain(
        decay.adam(lambda t: LR * multiplier(t)),
        decay.independent([(".*", lambda t: RATE * multiplier(t))]),
    )
    np.testing.assert_allclose(run(tx, start(), bowl, 10)["w"], w, rtol=1e-4)


@pytest.mark.usefixtures("mixed_dtypes")
@pytest.mark.parametrize("lr", [0.0, 1e-4, 10.0])
def test_independent_does_not_know_the_learning_rate(run, lr):
    tx = optax.chain(decay.adam(lr), decay.independent(ALL))
    np.testing.assert_allclose(run(tx, start(), flat, 10)["w"], START * 0.8**10, rtol=1e-5)


def test_l1_steps_by_the_sign_and_leaves_zero_alone():
    found = one_update(decay.l1(ALL), np.zeros(4, np.float32), START)
    np.testing.assert_array_equal(found, np.float32([RATE, -RATE, RATE, 0.0]))


def test_proximal_l1_solves_the_lasso_with_exact_zeros(run):
    # ½(w − target)² + λ|w| has the minimum S_λ(target).
    lasso = np.sign(TARGET) * np.maximum(np.abs(TARGET) - 0.75, 0)
    tx = optax.chain(optax.sgd(0.5), decay.proximal_l1([(".*", 0.5 * 0.75)]))
    found = run(tx, start(), lambda p, t: {"w": p["w"] - TARGET}, 60)["w"]
    np.testing.assert_allclose(found, lasso, atol=1e-6)
    assert found[0] == 0 and lasso[0] == 0


@pytest.mark.parametrize(
    ("update", "weight", "decays"),
    [(1, 2, True), (-1, -2, True), (1, -2, False), (-1, 2, False), (0, 2, True), (1, 0, False)],
)
def test_cautious_decays_only_where_signs_agree(update, weight, decays):
    found = one_update(decay.cautious(ALL), np.float32([update]), np.float32([weight]))
    np.testing.assert_allclose(found, [update + RATE * weight * decays], rtol=1e-6)


def test_cautious_reads_signs_that_a_product_would_lose():
    found = one_update(decay.cautious(ALL), np.float32([1e-30]), np.float32([-1e-30]))
    np.testing.assert_array_equal(found, np.float32([1e-30]))


@pytest.mark.usefixtures("mixed_dtypes")
def test_a_rate_may_be_a_schedule(run):
    halved = optax.piecewise_constant_schedule(0.2, {4: 0.5})
    found = run(decay.independent([(".*", halved)]), start(), flat, 10)["w"]
    np.testing.assert_allclose(found, START * 0.8**4 * 0.9**6, rtol=1e-5)


def test_scale_by_rules_is_a_learning_rate_for_each_leaf():
    params = {"embed": jnp.ones(2), "dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    tx = decay.scale_by_rules([("embed", 10.0), (".*kernel", 0.5), (".*", None)])
    updates, _ = tx.update(params, tx.init(params), params)
    expected = {"embed": [10.0, 10.0], "dense": {"kernel": [0.5, 0.5], "bias": [1.0, 1.0]}}
    jax.tree.map(np.testing.assert_array_equal, updates, jax.tree.map(np.float32, expected))


floats = st.floats(-8, 8, width=32, allow_subnormal=False)  # XLA flushes subnormals


@pytest.mark.parametrize("name", ["decoupled", "independent", "l2", "l1", "cautious"])
@settings(max_examples=25, deadline=None)
@given(
    update=st.lists(floats, min_size=3, max_size=3),
    rate=st.floats(0, 2, width=32, allow_subnormal=False),
)
def test_the_term_of_a_zero_weight_is_exactly_zero(name, update, rate):
    update = np.float32(update)
    found = one_update(TERMS[name]([(".*", rate)]), update, np.zeros(3, np.float32))
    np.testing.assert_array_equal(found, update)


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(floats, floats), min_size=3, max_size=3),
    rate=st.floats(0, 1, width=32, allow_subnormal=False),
)
def test_cautious_is_decoupled_or_nothing(pairs, rate):
    update, weight = np.float32(pairs).T
    rules = [(".*", rate)]
    found = one_update(decay.cautious(rules), update, weight)
    full = one_update(decay.decoupled(rules), update, weight)
    np.testing.assert_array_equal(
        found, np.where(np.sign(update) * np.sign(weight) < 0, update, full)
    )


@settings(max_examples=25, deadline=None)
@given(
    x=st.lists(floats, min_size=4, max_size=4),
    threshold=st.floats(0, 4, width=32, allow_subnormal=False),
)
def test_soft_threshold_is_the_proximal_point(x, threshold):
    x = np.float32(x)
    found = decay.soft_threshold(jnp.asarray(x), jnp.float32(threshold))
    expected = np.sign(x) * np.maximum(np.abs(x) - np.float32(threshold), 0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(
    ("weights", "gradients"), [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16",) * 2]
)
def test_types_are_stable_and_compiling_changes_little(name, weights, gradients):
    tx = TERMS[name]([("w", optax.linear_schedule(0.0, 0.1, 3)), (".*", None)])
    params = {"w": jnp.asarray(START, weights), "b": jnp.ones(2, weights)}
    updates = {"w": jnp.asarray(TARGET, gradients), "b": jnp.ones(2, gradients)}
    state = tx.init(params)
    assert jax.eval_shape(tx.init, params) == jax.eval_shape(lambda: state)
    eager = tx.update(updates, state, params)
    assert jax.eval_shape(lambda: eager) == jax.eval_shape(lambda: (updates, state))
    compiled = jax.jit(tx.update)(updates, state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), eager, compiled)


@pytest.mark.parametrize("name", TERMS)
def test_leaves_with_no_rate_pass_through_untouched(name):
    tx = TERMS[name]([("w", 0.1), (".*", None)])
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    assert tx.update(params, tx.init(params), params)[0]["b"] is params["b"]
