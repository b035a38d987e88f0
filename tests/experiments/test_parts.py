"""Convolutions in parts: the same network and gradients, by smaller convolutions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.parts import in_parts
from wlab.models.resnet import cifar, resnet

MODEL = resnet(cifar(8))
PARAMS, STATE = MODEL.init(jax.random.key(0))


def network(leaves, images):
    return MODEL.apply(leaves["params"], images, leaves["state"], train=True)


def loss(fn, params, images):
    logits, state = fn({"params": params, "state": STATE}, images)
    return jnp.mean(jnp.cos(logits @ jnp.arange(10.0))), state


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is nothing to gain elsewhere")
@pytest.mark.parametrize("count", [40, 64, 7])
def test_in_parts_is_the_same_network_with_the_same_gradients(count):
    images = jnp.asarray(np.random.default_rng(0).random((count, 32, 32, 3)), jnp.float32)
    both = [
        jax.jit(jax.value_and_grad(lambda p, x, fn=fn: loss(fn, p, x), has_aux=True))
        for fn in (network, in_parts(network))
    ]
    plain, parted = [f(PARAMS, images) for f in both]
    largest = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(plain[1]))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(parted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * largest)
    texts = [f.lower(PARAMS, images).as_text() for f in both]
    counts = [len(re.findall(r"stablehlo\.convolution", text)) for text in texts]
    assert (counts[1] > counts[0]) == (count > 32)
