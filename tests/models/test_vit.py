"""The vision transformer: its totals, what its parts see, positions of another size."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import Model, ViTConfig, resized_positions, vit
from wlab.transform import Params

Draw = Callable[[Model], Params]

CONFIG = ViTConfig(layers=1, width=12, heads=3, image_size=8, patch=4, ffn=20, classes=5)
MODEL = vit(CONFIG)
IMAGES = jnp.array(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)
BASE = ViTConfig(layers=12, width=768, heads=12, image_size=224, patch=16, classes=1000)
LARGE = ViTConfig(layers=24, width=1024, heads=16, image_size=224, patch=16, classes=1000)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BASE, 86_567_656),
        (replace(BASE, patch=32), 88_224_232),
        (LARGE, 304_326_632),
    ],
)
def test_published_totals(config: ViTConfig, count: int):
    assert tree.count(jax.eval_shape(vit(config).init, jax.random.key(0))) == count


def without_blocks(params: Params) -> Params:
    silent = [p for p in tree.paths(params) if "/attn/o/" in p or "/ffn/down/" in p]
    return tree.replace(params, {p: 0 * tree.leaves(params)[p] for p in silent})


def test_without_its_blocks_it_is_a_norm_of_patches_and_places(drawn: Draw):
    params = without_blocks(drawn(MODEL))
    found = jax.jit(lambda p, x: MODEL.apply(p, x, method="features"))(params, IMAGES)
    exact, images = jax.tree.map(np.float64, params), np.float64(IMAGES)
    embed, norm = exact["embed"], exact["norm"]
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    cut = np.stack([images[:, y : y + 4, x : x + 4].reshape(2, -1) for y, x in corners], 1)
    patches = cut @ embed["patch"]["kernel"].reshape(48, 12) + embed["patch"]["bias"]
    token = np.broadcast_to(embed["cls"]["embedding"], (2, 1, 12))
    x = np.concatenate([token, patches], 1) + embed["position"]["embedding"]
    x = x - x.mean(-1, keepdims=True)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found.states, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.pooled, found.states[:, 0])


def test_the_head_reads_the_pooled_vector(drawn: Draw):
    model = vit(replace(CONFIG, pooler=True))
    params = drawn(model)
    features = jax.jit(lambda p: model.apply(p, IMAGES, method="features"))(params)
    state = features.states[:, 0] @ params["pool"]["kernel"] + params["pool"]["bias"][None]
    np.testing.assert_allclose(features.pooled, np.tanh(state), rtol=1e-4, atol=1e-5)
    expected = features.pooled @ params["head"]["kernel"] + params["head"]["bias"][None]
    found = jax.jit(model.apply)(params, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_a_head_states_and_pooled_come_out():
    model = vit(replace(CONFIG, classes=0))
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert "head" not in params
    states, pooled = jax.eval_shape(model.apply, params, IMAGES)
    assert (states.shape, pooled.shape) == ((2, 5, 12), (2, 12))


def test_queries_keys_and_values_may_lack_biases():
    params = jax.eval_shape(vit(replace(CONFIG, qkv_biases=False)).init, jax.random.key(0))
    biases = {path for path in tree.paths(params["block_0"]) if path.endswith("/bias")}
    assert biases == {"attn/o/bias", "ffn/up/bias", "ffn/down/bias", "norm_1/bias", "norm_2/bias"}


def test_it_computes_in_the_dtype_of_its_weights(drawn: Draw):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), drawn(MODEL))
    found = jax.eval_shape(MODEL.apply, params, IMAGES.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(1, 12, 12, 3), (1, 8, 4, 3), (1, 3, 8, 8), (1, 8, 8, 1)])
def test_images_of_another_shape_are_refused(shape: tuple, drawn: Draw):
    with pytest.raises(ValueError, match=r"the model reads 8×8×3.*resized_positions"):
        MODEL.apply(drawn(MODEL), jnp.zeros(shape))


def keys(x: np.ndarray) -> np.ndarray:
    """Keys 1981, eq. 15."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def test_positions_of_a_larger_grid_are_bicubic():
    table = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    centers = (np.arange(5) + 0.5) * 3 / 5 - 0.5
    weights = keys(centers[:, None] - np.arange(3))
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("yi,xj,ijc->yxc", weights, weights, table[1:].reshape(3, 3, 4))
    found = resized_positions(jnp.array(table), 5)
    assert found.shape == (26, 4)
    np.testing.assert_allclose(found[1:], expected.reshape(25, 4), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0], table[0])


def test_positions_of_the_same_grid_stay(drawn: Draw):
    table = drawn(MODEL)["embed"]["position"]["embedding"]
    np.testing.assert_allclose(resized_positions(table, 2), table, rtol=1e-6)


def test_a_network_reads_larger_images_with_its_positions_resized(drawn: Draw):
    params, larger = drawn(MODEL), vit(replace(CONFIG, image_size=16))
    path = "embed/position/embedding"
    params = tree.replace(params, {path: resized_positions(tree.leaves(params)[path], 4)})
    found = jax.eval_shape(larger.apply, params, jnp.zeros((1, 16, 16, 3)))
    assert found.shape == (1, 5)


def test_a_table_of_no_square_grid_is_refused():
    with pytest.raises(ValueError, match="12 rows are no square grid"):
        resized_positions(jnp.zeros((12, 4)), 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 5}, "width .12. must be a multiple of heads .5."),
        ({"image_size": 10}, "image_size .10. must be a multiple of patch .4."),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict, said: str):
    with pytest.raises(ValueError, match=said):
        replace(CONFIG, **change)
