"""Tiles against a loop over tiles in NumPy: sums of squares, whole tiles, exact counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import pruning
from wlab.pruning import Blocks, tile_mask, tile_scores


def loop(scores: np.ndarray, k: int, shape: tuple[int, int]) -> np.ndarray:
    """Tile by tile of each matrix: the k with the largest sums of squares, the first of equals."""
    high, wide = shape
    corners = [
        (m, i, j)
        for m in range(len(scores))
        for i in range(0, scores.shape[1], high)
        for j in range(0, scores.shape[2], wide)
    ]
    sums = [float((scores[m, i : i + high, j : j + wide] ** 2).sum()) for m, i, j in corners]
    mask = np.zeros(scores.shape, bool)
    for t in sorted(range(len(sums)), key=lambda t: (-sums[t], t))[:k]:
        m, i, j = corners[t]
        mask[m, i : i + high, j : j + wide] = True
    return mask


@pytest.mark.parametrize(
    ("size", "shape"),
    [((1, 6, 6), (3, 2)), ((2, 7, 5), (3, 2)), ((1, 5, 1), (2, 4)), ((2, 4, 3), (1, 3))],
)
def test_the_tiles_with_the_largest_sums_of_squares_stay_whole(size, shape):
    """Of small integers with many ties, for any number of tiles, by one trace."""
    choose = jax.jit(partial(tile_mask, shape=shape, remainder="share"))
    tiles = size[0] * -(-size[1] // shape[0]) * -(-size[2] // shape[1])
    for k in range(tiles + 1):
        scores = np.random.default_rng(k).integers(0, 4, size).astype(np.float32)
        np.testing.assert_array_equal(choose(scores, jnp.int32(k)), loop(scores, k, shape))


def test_tiles_of_one_entry_are_entries():
    scores = jax.random.normal(jax.random.key(0), (9, 7))
    wanted = np.abs(scores) >= np.sort(np.abs(scores), axis=None)[-20]
    np.testing.assert_array_equal(tile_mask(jnp.abs(scores), 20, shape=(1, 1)), wanted)


def test_dead_entries_add_nothing_and_dead_tiles_go_first():
    scores = jnp.array([[-jnp.inf, 3.0, 0.0, 0.0, -jnp.inf, -jnp.inf, -2.0, 1.0]])
    sums = tile_scores(scores, (1, 2))
    np.testing.assert_array_equal(sums, [[9.0, 0.0, -jnp.inf, -3.0]])
    mask = tile_mask(scores, 3, shape=(1, 2))
    assert mask.tolist() == [[True] * 4 + [False] * 2 + [True] * 2]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_are_made_in_float32(dtype):
    """300² is beyond float16, and 300² + 1 beyond bfloat16."""
    scores = jnp.array([[300.0, 0.0, 300.0, 1.0]], dtype)
    sums = tile_scores(scores, (1, 2))
    np.testing.assert_array_equal(sums, [[90000.0, 90001.0]])


def test_nan_is_kept_and_seen():
    scores = jnp.array([[1.0, 9.0, jnp.nan, 0.0]])
    assert tile_mask(scores, 1, shape=(1, 2)).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("rounds", [1, 3])
def test_prune_keeps_an_exact_number_of_whole_tiles(rounds):
    kernel = np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32)
    rules = [("w", Blocks(0.35, (4, 2)))]
    pruned = np.asarray(pruning.prune({"w": jnp.asarray(kernel)}, 1.0, rules, rounds=rounds)["w"])
    wanted = loop(np.abs(kernel)[None], 11, (4, 2))[0]  # 30 · 0.35 = 10.5 is rounded up
    np.testing.assert_array_equal(pruned, np.where(wanted, kernel, 0))


def test_the_tiles_of_a_convolution_compete_over_the_whole_leaf():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)
    kernel[0] *= 0.1
    pruned = pruning.prune({"w": jnp.asarray(kernel)}, 1.0, [("w", Blocks(0.5, (2, 3)))])["w"]
    wanted = loop(np.abs(kernel).reshape(9, 4, 6), 18, (2, 3)).reshape(kernel.shape)
    np.testing.assert_array_equal(np.asarray(pruned) != 0, wanted)
    assert not wanted[0].any()


def test_magnitude_and_straight_through_keep_whole_tiles_along_the_schedule():
    schedule, rules = pruning.cubic(1.0, 0.1, end=4), [("w", Blocks(0.3, (2, 2)))]
    nested = pruning.magnitude(schedule, rules, every=1)
    free = pruning.straight_through(schedule, rules, every=1)
    alive, state = (
        np.ones((8, 8), bool),
        [t.init({"w": jnp.ones((8, 8))}, None)[1] for t in (nested, free)],
    )
    updates = [jax.jit(partial(t.update, grads=None)) for t in (nested, free)]
    for step in range(5):
        weights = np.random.default_rng(step).normal(size=(8, 8)).astype(np.float32)
        density = 1 - 0.7 * (1 - (1 - step / 4) ** 3)
        k = int(np.floor(16 * density + 0.5))
        state = [
            update(stored={"w": jnp.asarray(weights)}, state=s, step=jnp.int32(step))
            for update, s in zip(updates, state, strict=True)
        ]
        alive &= loop(np.where(alive, np.abs(weights), 0)[None], k, (2, 2))[0]
        masks = [np.asarray(pruning.unpack(s.masks["w"], (8, 8))) for s in state]
        np.testing.assert_array_equal(masks[0], alive)
        np.testing.assert_array_equal(masks[1], loop(np.abs(weights)[None], k, (2, 2))[0])
        assert masks[0].sum() == 4 * k
    assert k == 5


def test_tiles_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"tiles of 4 × 2 do not divide a matrix of 6 × 4"):
        tile_mask(jnp.ones((6, 4)), 1, shape=(4, 2))
    for shape in [(0, 2), (2, -1)]:
        with pytest.raises(ValueError, match="rows and columns, at least 1 of each"):
            Blocks(0.5, shape)
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1.5"):
        Blocks(1.5, (2, 2))
    with pytest.raises(ValueError, match=r"leaf 'w' of shape \(6, 4\): .*tiles of 4 × 2"):
        pruning.prune({"w": jnp.ones((6, 4))}, 1.0, [("w", Blocks(0.5, (4, 2)))])
