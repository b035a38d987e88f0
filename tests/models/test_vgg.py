"""VGG: its published totals, what the head reads, means over cells, batch statistics."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import VGGConfig, vgg
from wlab.models.dense import averaged
from wlab.models.vgg import vgg16, vgg16_bn, vgg16_cifar

TINY = VGGConfig(((4,), (5, 6)), 5, hidden=(7,), side=2, norms=True, hidden_norms=True)


@pytest.mark.parametrize(
    ("config", "count", "statistics"),
    [(vgg16, 138_357_544, 0), (vgg16_bn, 138_365_992, 8_448), (vgg16_cifar, 14_991_946, 9_472)],
)
def test_published_totals(config: VGGConfig, count: int, statistics: int):
    params, state = jax.eval_shape(vgg(config).init, jax.random.key(0))
    assert tree.count(params) == count
    assert tree.count(state) == statistics


def test_features_are_what_the_head_reads_and_training_moves_statistics():
    model = vgg(TINY)
    params, state = model.init(jax.random.key(0))
    images = jnp.array(np.random.default_rng(0).normal(size=(8, 8, 8, 3)), jnp.float32)
    features, _ = model.apply(params, images, state, method="features")
    logits, same = model.apply(params, images, state)
    head = params["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, rtol=1e-5)
    assert features.shape == (8, 7)
    assert same is state
    _, new = jax.jit(lambda *args: model.apply(*args, train=True))(params, images, state)
    assert tree.paths(new) == tree.paths(state)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), new, state)
    assert all(jax.tree.leaves(moved))


def test_without_classes_there_are_maps():
    model = vgg(replace(TINY, classes=0))
    params, state = model.init(jax.random.key(0))
    assert sorted(params) == ["stage_0", "stage_1"]
    maps, _ = model.apply(params, jnp.ones((2, 9, 13, 3)), state)
    assert maps.shape == (2, 2, 3, 6)
    features, _ = model.apply(params, jnp.ones((2, 9, 13, 3)), state, method="features")
    np.testing.assert_array_equal(maps, features)


@pytest.mark.parametrize(("height", "width"), [(7, 5), (3, 3), (2, 1), (6, 9)])
def test_means_over_cells_are_those_of_loops(height: int, width: int):
    maps = np.random.default_rng(0).normal(size=(2, height, width, 4))
    expected = np.zeros((2, 3, 3, 4))
    for i in range(3):
        for j in range(3):
            rows = slice(int(np.floor(i * height / 3)), int(np.ceil((i + 1) * height / 3)))
            columns = slice(int(np.floor(j * width / 3)), int(np.ceil((j + 1) * width / 3)))
            expected[:, i, j] = maps[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(averaged(jnp.array(maps, jnp.float32), 3), expected, atol=1e-6)


def test_a_stage_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="every stage needs a convolution"):
        VGGConfig(((4,), ()), 5)
