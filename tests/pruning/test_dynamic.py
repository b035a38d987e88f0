"""Sparse from the first step on: exact counts, NumPy twins of an update, a support found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import pruning, training, tree

RULES = [(".*kernel", True), (".*", None)]
SHAPES = {"fc1": {"kernel": (16, 24), "bias": (24,)}, "fc2": {"kernel": (24, 6), "bias": (6,)}}


def make_params(seed=0):
    shapes, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    leaves = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    return jax.tree.unflatten(treedef, leaves)


def masks_in(state, params):
    named = tree.leaves(params)
    return {
        path: np.asarray(pruning.unpack(bits, named[path].shape))
        for path, bits in state.masks.items()
    }


def count(state, params):
    return {path: int(mask.sum()) for path, mask in masks_in(state, params).items()}


def largest_first(scores):
    """Flat indices by falling score, NaN first, ties by index."""
    flat = np.asarray(scores, np.float64).ravel()
    return sorted(range(flat.size), key=lambda i: (not np.isnan(flat[i]), -flat[i], i))


def twin(weights, mask, growth, part):
    """One update by loops and sets."""
    live = {int(i) for i in np.flatnonzero(mask)}
    moves = int(np.round(np.float32(part) * np.float32(len(live))))
    by_size = [i for i in largest_first(np.abs(weights)) if i in live]
    kept = set(by_size[: len(live) - moves])
    grown = [i for i in largest_first(growth) if i not in kept][:moves]
    new = np.zeros(mask.size, bool)
    new[[*kept, *grown]] = True
    return new.reshape(mask.shape)


@pytest.mark.parametrize("seed", range(12))
def test_a_move_equals_its_numpy_twin(seed):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-4, 5, (9, 7)).astype(np.float32)  # full of ties
    growth = np.abs(rng.integers(-4, 5, (9, 7))).astype(np.float32)
    weights[rng.random((9, 7)) < 0.05] = np.nan
    growth[rng.random((9, 7)) < 0.05] = np.nan
    mask = rng.random((9, 7)) < rng.choice([0.0, 0.2, 0.7, 1.0])
    part = float(rng.choice([0.0, 0.1, 0.3, 0.5, 1.0]))
    weights = np.where(mask, weights, 0)
    new = np.asarray(jax.jit(pruning.moved)(weights, mask, growth, jnp.float32(part)))
    np.testing.assert_array_equal(new, twin(weights, mask, growth, part))
    assert new.sum() == mask.sum()


def test_static_keeps_exactly_as_many_as_allotted_and_they_are_zero_from_the_start():
    params = make_params()
    transform = pruning.static(0.2, RULES)
    stored, state = jax.jit(transform.init)(params, jax.random.key(3))
    shapes = {path: tree.leaves(params)[path].shape for path in state.masks}
    wanted = {budget.paths[0]: budget.k for budget in pruning.erk(shapes, 0.2)}
    assert count(state, params) == wanted
    assert sum(wanted.values()) == pruning.kept(16 * 24 + 24 * 6, 0.2)
    seen = tree.leaves(transform.view(stored, state, 0))
    for path, mask in masks_in(state, params).items():
        np.testing.assert_array_equal(seen[path], np.where(mask, tree.leaves(params)[path], 0))
    np.testing.assert_array_equal(seen["fc1/bias"], params["fc1"]["bias"])


def test_every_place_of_a_static_mask_is_as_likely():
    def mask(key):
        _, state = pruning.static(0.25, [("kernel", True)]).init({"kernel": jnp.ones((4, 4))}, key)
        return pruning.unpack(state.masks["kernel"], (4, 4))

    share = jnp.mean(jax.vmap(mask)(jax.random.split(jax.random.key(0), 4000)), axis=0)
    # Five standard errors of a frequency of 1/4 in 4000 draws.
    np.testing.assert_allclose(share, 0.25, atol=5 * (0.25 * 0.75 / 4000) ** 0.5)


def test_rigl_moves_the_annealed_fraction_of_each_leaf_when_it_is_due_and_else_nothing():
    params = make_params()
    transform = pruning.rigl(0.2, RULES, every=4, end=12, fraction=0.6)
    stored, state = transform.init(params, jax.random.key(3))
    before, update = masks_in(state, params), jax.jit(transform.update)
    # Steepest where dead, so that nothing that dies grows again.
    grads = tree.map_leaves(lambda path, x: 1.0 - (x != 0).astype(jnp.float32), stored)
    for step in range(14):
        after = masks_in(update(stored, grads, state, jnp.int32(step)), params)
        for path, mask in before.items():
            k = mask.sum()
            moves = round(k * 0.3 * (1 + np.cos(np.pi * step / 12))) if step in (4, 8) else 0
            assert (mask & ~after[path]).sum() == (after[path] & ~mask).sum() == moves


@pytest.mark.parametrize("name", ["rigl", "evolutionary"])
def test_an_update_of_a_tree_equals_the_numpy_twin(name):
    params, grads = make_params(), make_params(seed=5)
    transform = getattr(pruning, name)(0.3, RULES, every=2, end=10, fraction=0.5)
    assert transform.needs_grads == (name == "rigl")
    stored, state = transform.init(params, jax.random.key(3))
    new = transform.update(stored, grads if name == "rigl" else None, state, jnp.int32(4))
    part = 0.25 * (1 + np.cos(np.pi * 4 / 10))
    key = jax.random.fold_in(jax.random.key(3), 4)
    for path, mask in masks_in(state, params).items():
        growth = {
            "rigl": jnp.abs(tree.leaves(grads)[path]),
            "evolutionary": jax.random.uniform(tree.path_key(key, path), mask.shape),
        }[name]
        wanted = twin(tree.leaves(stored)[path], mask, growth, part)
        assert (wanted != mask).any()
        np.testing.assert_array_equal(masks_in(new, params)[path], wanted)


def test_chance_differs_from_step_to_step_and_repeats_for_a_key():
    params = make_params()
    transform = pruning.evolutionary(0.3, RULES, every=1, end=100)
    stored, state = transform.init(params, jax.random.key(3))
    update = jax.jit(transform.update)
    a, b, again = (update(stored, None, state, jnp.int32(i)) for i in (1, 2, 1))
    same = [np.array_equal(a.masks[path], b.masks[path]) for path in a.masks]
    assert not any(same)
    jax.tree.map(np.testing.assert_array_equal, a.masks, again.masks)


def problem():
    """A linear map of which 16 of 256 weights are not zero."""
    keys = jax.random.split(jax.random.key(11), 3)
    support = pruning.topk_mask(jax.random.uniform(keys[0], (32, 8)), 16)
    truth = jnp.where(support, jnp.where(jax.random.bernoulli(keys[1], 0.5, (32, 8)), 1, -1), 0.0)
    x = jax.random.normal(keys[2], (256, 32))
    return np.asarray(support), x, x @ truth


def train(transform, steps=300):
    support, x, y = problem()
    tx = optax.sgd(0.1, momentum=0.9)

    def loss(params, model_state, batch, key):
        del key
        error = batch["x"] @ params["kernel"] - batch["y"]
        return jnp.sum(error**2), (jnp.float32(len(error)), model_state, {})

    params = {"kernel": 0.1 * jax.random.normal(jax.random.key(4), (32, 8))}
    state = training.init_state(params, transform, tx, key=jax.random.key(5))
    step = training.compile_step(training.make_step(loss, transform, tx), state)
    for _ in range(steps):
        state, metrics = step(state, {"x": x, "y": y})
    return support, masks_in(state.weights, params)["kernel"], float(metrics["loss"])


@pytest.mark.long
def test_rigl_finds_a_support_that_chance_misses_and_the_loss_tells():
    rules, budget = [("kernel", True)], 16 / 256
    support, found, loss = train(pruning.rigl(budget, rules, every=10, end=250))
    np.testing.assert_array_equal(found, support)
    assert loss < 1e-4
    _, fixed, stuck = train(pruning.static(budget, rules))
    assert fixed.sum() == found.sum() == 16
    assert (fixed & support).sum() < 8 and stuck > 5
    _, moved, better = train(pruning.evolutionary(budget, rules, every=10, end=250))
    assert moved.sum() == 16 and loss < better < stuck


def test_none_begins_with_the_zeros_that_are_there_and_keeps_their_number():
    params = {"kernel": jnp.array([[1.0, 0.0, -0.0, 2.0], [3.0, 0.5, 0.0, 0.0]])}
    transform = pruning.rigl(None, [("kernel", True)], every=1, end=10, fraction=0.5)
    stored, state = transform.init(params, jax.random.key(0))
    np.testing.assert_array_equal(masks_in(state, params)["kernel"], params["kernel"] != 0)
    grads = {"kernel": jnp.array([[0.0, 0.0, 9.0, 0.0], [0.0, 0.0, 8.0, 0.0]])}
    state = transform.update(stored, grads, state, 1)
    # 4 · 0.25 · (1 + cos(π / 10)) = 1.95: 0.5 and 1 make room for the two steep ones.
    np.testing.assert_array_equal(masks_in(state, params)["kernel"], [[0, 0, 1, 1], [1, 0, 1, 0]])


def test_a_population_with_traced_densities_equals_a_loop():
    params, grads = make_params(), make_params(seed=5)

    def last(density):
        transform = pruning.rigl(density, RULES, every=1, end=5)
        stored, state = transform.init(params, jax.random.key(3))
        return jax.lax.scan(
            lambda state, step: (transform.update(stored, grads, state, step), None),
            state,
            jnp.arange(4),
        )[0].masks

    densities = jnp.array([0.1, 0.5, 1.0])
    many = jax.jit(jax.vmap(last))(densities)
    one = jax.jit(last)
    for i, density in enumerate(densities):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), many, one(density))


def test_an_idle_step_chooses_nothing_and_under_vmap_too():
    transform = pruning.rigl(0.3, RULES, end=1000)
    params = jax.tree.map(lambda x: jnp.stack([x, x + 1]), make_params())
    keys = jax.random.split(jax.random.key(0), 2)
    stored, state = jax.eval_shape(jax.vmap(transform.init), params, keys)
    update = jax.vmap(transform.update, (0, 0, 0, None))
    jaxpr = jax.make_jaxpr(update)(stored, params, state, 0).jaxpr
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert "cond" in names
    assert not {"while", "scan", "sort"} & set(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0, "end": 5}, "every and end are steps"),
        ({"end": 0}, "every and end are steps"),
        ({"end": 5, "fraction": 1.5}, "fraction is a part"),
    ],
)
@pytest.mark.parametrize("name", ["rigl", "evolutionary"])
def test_what_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(pruning, name)(0.5, RULES, **options)


def test_a_density_outside_the_unit_interval_is_refused():
    for make in (pruning.static, lambda d, r: pruning.rigl(d, r, end=1)):
        with pytest.raises(ValueError, match="fraction kept"):
            make(1.5, RULES)
