"""How often a network is right: counted by hand, in batches, and refused where it cannot be."""

import jax.numpy as jnp
import numpy as np
import pytest

from wlab.models import Model, StatefulModel
from wlab.pretrained import NameMap, Network, Plan, accuracy, class_logits

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 2, 2, 3), np.uint8)
CLASS = IMAGES.sum(axis=(1, 2)).argmax(axis=1)  # the colour that an image has most of


def colours(stateful: bool = False) -> Network:
    """A network that sees the sum of each colour."""

    def seen(inputs):
        return jnp.sum(inputs, axis=(1, 2))

    def apply(params, inputs):
        return seen(inputs) * params

    def apply_stateful(params, inputs, state, **options):
        return apply(params, inputs) + state, state

    model = (
        StatefulModel(lambda key: ((), ()), apply_stateful)
        if stateful
        else Model(lambda key: (), apply)
    )
    return Network(
        model,
        None,
        jnp.float32(1),
        NameMap(()),
        Plan(()),
        model_state=jnp.float32(0),
        image_size=2,
        prepare=lambda images: images.astype(np.float32) / 255,
    )


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 11, 100])
def test_what_is_right_is_counted_once_whatever_the_batch(stateful, batch):
    labels, seen = CLASS.copy(), []
    labels[[0, 7]] = (labels[[0, 7]] + 1) % 3
    found = accuracy(colours(stateful), IMAGES, labels, batch=batch, report=seen.append)
    assert found == (9, 11)
    assert found.accuracy == pytest.approx(9 / 11)
    assert seen[-1] == 11


def test_logits_are_those_of_prepared_images():
    np.testing.assert_allclose(
        class_logits(colours(), IMAGES), IMAGES.sum(axis=(1, 2)) / 255, rtol=1e-6
    )


def test_what_cannot_be_seen_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3\), got \(4, 4, 3\)"):
        accuracy(colours(), np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, int))
    with pytest.raises(ValueError, match=r"labels are in \[0, 3\), got 0 to 3"):
        accuracy(colours(), IMAGES[:2], np.array([0, 3]))
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        accuracy(colours(), IMAGES[:2], np.array([0]))
    with pytest.raises(ValueError, match="0 images and 0 labels"):
        accuracy(colours(), IMAGES[:0], np.zeros(0, int))
    blind = Network(colours().model, None, (), NameMap(()), Plan(()))
    with pytest.raises(ValueError, match="reads no images"):
        class_logits(blind, IMAGES)
