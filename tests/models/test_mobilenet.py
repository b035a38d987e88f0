"""MobileNetV2: its published totals, its rounding of widths, what the head reads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import MobileNetV2Config, mobilenet_v2
from wlab.models.mobilenet import Stage, rounded

TINY = MobileNetV2Config(5, stages=(Stage(1, 8, 1, 1), Stage(2, 8, 2, 1)), first=8, last=16)


@pytest.mark.parametrize(
    ("multiplier", "count"), [(1.0, 3_504_872), (1.4, 6_108_776), (0.35, 1_677_128)]
)
def test_published_totals(multiplier: float, count: int):
    model = mobilenet_v2(MobileNetV2Config(multiplier=multiplier))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    assert tree.count(params) == count
    if multiplier == 1:
        assert tree.count(state) == 34_112


@pytest.mark.parametrize(
    ("width", "expected"),
    [(1, 8), (11.9, 16), (12, 16), (16, 16), (18, 24), (19.9, 24), (44.8, 48)],
)
def test_widths_are_rounded_to_eights_never_ten_percent_down(width: float, expected: int):
    assert rounded(width) == expected
    assert rounded(width) >= 0.9 * width


def test_features_are_what_the_head_reads_and_training_moves_statistics():
    model = mobilenet_v2(TINY)
    params, state = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    features, _ = model.apply(params, images, state, method="features")
    logits, same = model.apply(params, images, state)
    head = params["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, rtol=1e-5)
    assert same is state
    assert float(features.min()) >= 0
    assert float(features.max()) <= 6
    _, new = jax.jit(lambda *args: model.apply(*args, train=True))(params, images, state)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), new, state)
    assert all(jax.tree.leaves(moved))


def test_without_classes_the_features_are_the_output():
    model = mobilenet_v2(replace(TINY, classes=0))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    assert "head" not in params
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    found, _ = jax.eval_shape(model.apply, params, images, state)
    assert found.shape == (2, 16)
