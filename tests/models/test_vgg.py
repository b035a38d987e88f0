"""VGG: its published totals, what the head reads, means over cells, batch statistics."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wlab import graph, tree
from wlab.models import VGGConfig, vgg
from wlab.models.dense import averaged
from wlab.models.small_maps import convolved
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


def test_maps_smaller_than_the_kernel_are_convolved_as_any_other():
    conv = nnx.Conv(5, 6, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
    same = nnx.Conv(5, 6, (3, 3), padding="SAME", rngs=nnx.Rngs(0))
    for side in (1, 2, 3, 5):
        maps = jax.random.normal(jax.random.key(side), (4, side, side, 5))

        def squares(maps: jax.Array, ours: bool) -> jax.Array:
            return jnp.sum((convolved(conv, maps) if ours else same(maps)) ** 2)

        np.testing.assert_allclose(convolved(conv, maps), same(maps), rtol=1e-5, atol=1e-6)
        found, expected = (jax.grad(squares)(maps, ours) for ours in (True, False))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def used(config: VGGConfig, leaves: dict, side: int) -> graph.Graph:
    model, images = vgg(config), jnp.zeros((2, side, side, 3))
    return graph.read(
        lambda leaves, x: model.apply(leaves["params"], x, leaves["state"])[0], leaves, images
    )


def test_multiply_adds_are_those_of_the_sizes():
    params, state = jax.eval_shape(vgg(vgg16_cifar).init, jax.random.key(0))
    spent, inputs = 512 * 512 + 512 * 10, 3
    for stage, widths in enumerate(vgg16_cifar.widths):
        for width in widths:
            spent += 9 * inputs * width * (32 >> stage) ** 2
            inputs = width
    read = used(vgg16_cifar, {"params": params, "state": state}, 32)
    assert graph.multiply_adds(read) == 2 * spent


def test_channels_can_be_taken_out_before_and_behind_small_maps():
    params, state = vgg(TINY).init(jax.random.key(0))
    leaves = {"params": params, "state": state}
    groups = graph.groups(used(TINY, leaves, 4))
    keep = {name: np.arange(group.size) % 2 == 0 for name, group in groups.groups.items()}
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 3))
    assert {"params/stage_0/conv_1/kernel:3", "params/stage_1/conv_2/kernel:3"} <= keep.keys()
    assert graph.verify(groups, keep, leaves, images) < 1e-5
