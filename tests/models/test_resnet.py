"""Residual networks against loops in NumPy, their published totals, their batch statistics."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import ResNetConfig, resnet
from wlab.models.resnet import cifar, resnet50

BASIC = ResNetConfig((1, 2), (4, 6), 5)
LARGE = ResNetConfig((1, 1), (4, 6), 5, bottleneck=True, large=True, biases=True, epsilon=1e-3)
CASES = [BASIC, LARGE, replace(LARGE, early_stride=True)]


def conv(x: np.ndarray, layer: dict, stride: int = 1) -> np.ndarray:
    """One output pixel at a time."""
    kernel = layer["kernel"]
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    places = range(0, x.shape[1] - size + 1, stride)
    rows = [
        [np.einsum("bhwi,hwio->bo", x[:, i : i + size, j : j + size], kernel) for j in places]
        for i in places
    ]
    return np.array(rows).transpose(2, 0, 1, 3) + layer.get("bias", 0)


def pooled(x: np.ndarray) -> np.ndarray:
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    places = range(0, x.shape[1] - 2, 2)
    return np.array(
        [[x[:, i : i + 3, j : j + 3].max((1, 2)) for j in places] for i in places]
    ).transpose(2, 0, 1, 3)


def forward(params: dict, state: dict, x: np.ndarray, config: ResNetConfig) -> np.ndarray:
    def norm(x: np.ndarray, name: str, p: dict, s: dict) -> np.ndarray:
        wide = np.sqrt(s[name]["var"] + config.epsilon)
        return (x - s[name]["mean"]) / wide * p[name]["scale"] + p[name]["bias"]

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    x = relu(norm(conv(x, params["stem"], 2 if config.large else 1), "norm", params, state))
    x = pooled(x) if config.large else x
    for stage, count in enumerate(config.blocks):
        for i in range(count):
            p, s = params[f"block_{stage}_{i}"], state[f"block_{stage}_{i}"]
            stride = 2 if stage and not i else 1
            at = 1 if not config.bottleneck or config.early_stride else 2
            y, parts = x, 3 if config.bottleneck else 2
            for part in range(1, parts + 1):
                y = conv(y, p["branch"][f"conv_{part}"], stride if part == at else 1)
                y = norm(y, f"norm_{part}", p["branch"], s["branch"])
                y = relu(y) if part < parts else y
            if "shortcut" in p:
                x = norm(conv(x, p["shortcut"], stride), "shortcut_norm", p, s)
            x = relu(x + y)
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("config", CASES)
def test_the_network_computes_what_numpy_does(config: ResNetConfig):
    rng = np.random.default_rng(0)
    model = resnet(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params, state = jax.tree.map(lambda s: rng.normal(0.1, 0.3, s.shape), shapes)
    state = jax.tree.map(np.square, state)
    images = rng.normal(size=(2, 16, 16, 3))
    f32 = jax.tree.map(jnp.float32, (params, state, images))
    found, same = model.apply(f32[0], f32[2], f32[1])
    np.testing.assert_allclose(found, forward(params, state, images, config), rtol=1e-3, atol=1e-3)
    assert same is f32[1]


def test_training_moves_the_statistics_a_tenth_of_the_way_to_the_batch():
    model = resnet(BASIC)
    params, state = model.init(jax.random.key(0))
    images = jnp.array(np.random.default_rng(0).normal(size=(8, 6, 6, 3)), jnp.float32)
    _, new = jax.jit(lambda *args: model.apply(*args, train=True))(params, images, state)
    stem = np.asarray(conv(np.asarray(images), {"kernel": np.asarray(params["stem"]["kernel"])}))
    np.testing.assert_allclose(new["norm"]["mean"], 0.1 * stem.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(new["norm"]["var"], 0.9 + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)


def test_features_are_what_the_head_reads():
    model = resnet(BASIC)
    params, state = model.init(jax.random.key(0))
    images = jnp.ones((2, 8, 8, 3))
    features, _ = model.apply(params, images, state, method="features")
    logits, _ = model.apply(params, images, state)
    head = params["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (cifar(20), 272_474),
        (cifar(56), 855_770),
        (resnet50, 25_557_032),
        (replace(resnet50, biases=True), 25_583_592),  # and 53,120 statistics in Keras
    ],
)
def test_published_totals(config: ResNetConfig, count: int):
    params, state = jax.eval_shape(resnet(config).init, jax.random.key(0))
    assert tree.count(params) == count
    if config.biases:
        assert tree.count(params) + tree.count(state) == 25_636_712


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="depth must be 6n"):
        cifar(21)
    with pytest.raises(ValueError, match="one entry a stage"):
        ResNetConfig((1, 1), (4,), 5)
