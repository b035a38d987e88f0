"""AlexNet: its published total and what its features are."""

import jax
import jax.numpy as jnp
import numpy as np

from wlab import tree
from wlab.models import AlexNetConfig, alexnet

TINY = AlexNetConfig(5, widths=(4, 5, 6, 7, 8), hidden=(9, 10), side=2)


def test_published_total():
    params, state = jax.eval_shape(alexnet().init, jax.random.key(0))
    assert tree.count(params) == 61_100_840
    assert tree.count(state) == 0


def test_features_are_what_the_head_reads():
    model = alexnet(TINY)
    params, state = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 63, 95, 3))
    features, _ = model.apply(params, images, state, method="features")
    logits, same = model.apply(params, images, state, train=True)
    head = params["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, rtol=1e-5)
    assert features.shape == (2, 10)
    assert same == {}


def test_without_classes_there_are_the_maps_of_five_convolutions():
    model = alexnet(AlexNetConfig(classes=0))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    assert sorted(params) == [f"conv_{i}" for i in range(1, 6)]
    assert tree.count(params) == 2_469_696
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    maps, _ = jax.eval_shape(model.apply, params, images, state)
    assert maps.shape == (1, 6, 6, 256)
