"""Training on, with a network small enough to check in a ResNet-56's place."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import resnet56
from experiments.resnet56 import Net, Tuning
from wlab.transform import identity

pytestmark = pytest.mark.usefixtures("standard_promotion")


def brightness(leaves, images):
    """Two classes, by the mean of an image, which no crop or mirror changes much."""
    mean = images.mean((1, 2))
    return mean @ leaves["params"]["kernel"] + leaves["params"]["bias"][None], leaves["state"]


def net(kernel, bias=(0.0, 0.0)) -> Net:
    params = {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}
    return Net({"params": params, "state": {}}, brightness, brightness)


@pytest.mark.parametrize("taught", [False, True])
def test_a_network_learns_the_labels_or_what_its_teacher_says(taught: bool):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 256, (256, 1, 1, 1), dtype=np.uint8)
    images = np.broadcast_to(level, (256, 32, 32, 1)).copy()
    bright = (level.reshape(-1) > 127).astype(np.int32)
    train = {"image": images, "label": bright}
    contrary = net([[30.0, -30.0]], (-12.0, 12.0)) if taught else None  # bright is class 0
    tuned = resnet56.trained(
        net([[0.0, 0.0]]), identity(), train, Tuning(60, 64, 1.0, 0), teacher=contrary
    )
    logits = partial(tuned.use, tuned.leaves)(jnp.asarray(images, jnp.float32) / 255)[0]
    right = np.mean(np.argmax(logits, 1) == bright)
    assert right < 0.2 if taught else right > 0.8
