"""Tiles that move while training: exact counts, NumPy twins, and zeros where they grow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_dynamic import masks_in, twin

from wlab import pruning, training, tree
from wlab.pruning import Blocks
from wlab.pruning.dynamic import moved_tiles

SHAPES = {"fc1": {"kernel": (8, 12), "bias": (12,)}, "fc2": {"kernel": (12, 6)}}
RULES = [("fc1/kernel", Blocks(0.25, (4, 3))), (".*kernel", True), (".*", None)]
NAMES = ["rigl", "evolutionary"]


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    make = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return jax.tree.map(make, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def sums(x, high, wide):
    """Of the entries of each tile, by loops; tiles at an end have what is left."""
    x = np.asarray(x, np.float64)
    *batch, rows, columns = x.shape
    found = np.zeros((*batch, -(-rows // high), -(-columns // wide)))
    for *i, row, column in np.ndindex(x.shape):
        found[(*i, row // high, column // wide)] += x[(*i, row, column)]
    return found


def spread(tiles, shape, high, wide):
    """The tile of each entry, by loops."""
    found = np.zeros(shape, tiles.dtype)
    for *i, row, column in np.ndindex(shape):
        found[(*i, row, column)] = tiles[(*i, row // high, column // wide)]
    return found


@pytest.mark.parametrize(("shape", "tile"), [((7, 5), (2, 3)), ((3, 4, 4), (2, 2))])
def test_a_move_of_tiles_equals_its_numpy_twin(shape, tile):
    move = jax.jit(lambda *given: moved_tiles(*given, shape=tile))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        live = rng.random(sums(np.zeros(shape), *tile).shape) < rng.choice([0.0, 0.3, 0.7, 1.0])
        mask = spread(live, shape, *tile)
        weights = np.where(mask, rng.integers(-4, 5, shape), 0).astype(np.float32)  # full of ties
        slopes = np.abs(rng.integers(-4, 5, shape)).astype(np.float32)
        growth, part = sums(slopes, *tile), rng.choice([0.0, 0.3, 0.5, 1.0])
        new = move(weights, mask, growth.astype(np.float32), jnp.float32(part))
        expected = twin(sums(np.abs(weights), *tile), live, growth, part)
        np.testing.assert_array_equal(new, spread(expected, shape, *tile))
        assert expected.sum() == live.sum()


@pytest.mark.parametrize("name", NAMES)
def test_an_update_of_a_tree_equals_the_numpy_twins(name):
    """One leaf has tiles, another none."""
    params, grads = make_params(), make_params(6)
    transform = getattr(pruning, name)(0.3, RULES, every=2, end=10, fraction=0.9)
    stored, state = transform.init(params, jax.random.key(3))
    new = transform.update(stored, grads if name == "rigl" else None, state, jnp.int32(4))
    before, after = masks_in(state, params), masks_in(new, params)
    part, key = 0.45 * (1 + np.cos(np.pi * 4 / 10)), jax.random.fold_in(jax.random.key(3), 4)
    for path, grow in (("fc1/kernel", (2, 4)), ("fc2/kernel", (12, 6))):
        tile = (4, 3) if grow == (2, 4) else (1, 1)
        live = sums(before[path], *tile) > 0
        growth = {
            "rigl": sums(np.abs(tree.leaves(grads)[path]), *tile),
            "evolutionary": jax.random.uniform(tree.path_key(key, path), grow),
        }[name]
        expected = twin(sums(np.abs(tree.leaves(stored)[path]), *tile), live, growth, part)
        assert (expected != live).any()
        np.testing.assert_array_equal(after[path], spread(expected, before[path].shape, *tile))


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_as_many_tiles_as_are_said_and_zeros_elsewhere(name):
    params = make_params()
    transform = getattr(pruning, name)(0.3, RULES, end=10)
    stored, state = transform.init(params, jax.random.key(1))
    masks = masks_in(state, params)
    tiles = sums(masks["fc1/kernel"], 4, 3)
    assert sorted(tiles.ravel()) == [0] * 6 + [12] * 2  # a quarter of eight, whole
    assert masks["fc2/kernel"].sum() == pruning.kept(72, 0.3)
    for path, mask in masks.items():
        expected = np.where(mask, tree.leaves(params)[path], 0)
        np.testing.assert_array_equal(tree.leaves(stored)[path], expected)


def test_every_tile_is_as_likely_at_first_short_ones_too():
    rules = [("w", Blocks(0.5, (2, 4), remainder="share"))]

    def mask(key):
        _, state = pruning.rigl(0.5, rules, end=1).init({"w": jnp.ones((3, 5))}, key)
        return pruning.unpack(state.masks["w"], (3, 5))

    share = jnp.mean(jax.vmap(mask)(jax.random.split(jax.random.key(0), 2000)), axis=0)
    # Five standard errors of a frequency of 1/2 in 2000 draws.
    np.testing.assert_allclose(share, 0.5, atol=5 * 0.5 / 2000**0.5)


def test_none_begins_with_the_tiles_in_which_there_is_anything():
    kernel = jnp.zeros((4, 4)).at[0, 0].set(1).at[3, 1].set(-2)
    transform = pruning.rigl(None, [("kernel", Blocks(0.9, (2, 2)))], every=1, end=9, fraction=1.0)
    stored, state = transform.init({"kernel": kernel}, jax.random.key(0))
    np.testing.assert_array_equal(
        masks_in(state, stored)["kernel"], spread(np.array([[1, 0], [1, 0]]), (4, 4), 2, 2)
    )
    slopes = {"kernel": jnp.zeros((4, 4)).at[2, 3].set(-1)}
    state = transform.update(stored, slopes, state, jnp.int32(1))
    # 2 · (1 + cos(π / 9)) / 2 is 1.94: both die, the steep one grows, and the first of the rest.
    np.testing.assert_array_equal(
        masks_in(state, stored)["kernel"], spread(np.array([[1, 0], [0, 1]]), (4, 4), 2, 2)
    )


def test_tiles_that_grow_start_at_zero_with_zero_moments():
    rules = [("kernel", Blocks(0.5, (2, 2)))]
    transform = pruning.rigl(0.5, rules, every=1, end=20, fraction=0.8)
    tx = optax.sgd(0.1, momentum=0.9)

    def loss(params, model_state, batch, key):
        del key
        error = batch @ params["kernel"] - 1
        return jnp.sum(error**2), (jnp.float32(len(batch)), model_state, {})

    params = {"kernel": make_params()["fc2"]["kernel"]}
    state = training.init_state(params, transform, tx, key=jax.random.key(5))
    step, grown = jax.jit(training.make_step(loss, transform, tx)), 0
    for i in range(6):
        before = masks_in(state.weights, params)["kernel"]
        state, _ = step(state, jax.random.normal(jax.random.key(i), (8, 12)))
        after = masks_in(state.weights, params)["kernel"]
        assert sorted(sums(after, 2, 2).ravel()) == [0] * 9 + [4] * 9
        for leaf in (state.stored["kernel"], state.opt[0].trace["kernel"]):
            assert not np.asarray(leaf)[~after | ~before].any()
            assert np.asarray(leaf)[after & before].all()
        grown += (after & ~before).sum()
    assert grown > 0


def test_devices_move_the_same_tiles_as_one():
    transform = pruning.rigl(0.3, [("w", Blocks(0.25, (4, 3)))], every=1, end=10, fraction=0.8)
    params, grads = ({"w": make_params(i)["fc1"]["kernel"]} for i in (0, 6))
    stored, state = transform.init(params, jax.random.key(0))
    update = jax.jit(transform.update)
    expected = update(stored, grads, state, jnp.int32(1)).masks
    types = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=types)
    there = jax.device_put((stored, grads), jax.NamedSharding(mesh, jax.P("data", "model")))
    with jax.set_mesh(mesh):
        found = update(*there, state, jnp.int32(1)).masks
    assert not np.array_equal(found["w"], state.masks["w"])
    np.testing.assert_array_equal(found["w"], expected["w"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (pruning.Neighbours(2, 4), "knows Blocks alone"),
        (Blocks(0.5, (3, 3)), "tiles of 3 × 3 do not divide 8 inputs"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(name, pattern, message):
    transform = getattr(pruning, name)(0.5, [("fc1/kernel", pattern), (".*", None)], end=5)
    with pytest.raises(ValueError, match=f"{name}: leaf 'fc1/kernel'.*{message}"):
        transform.init(make_params(), jax.random.key(0))
