"""What a network sees in photographs, and how often it is right."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from wlab.models import StatefulModel
from wlab.pretrained.networks.network import Network
from wlab.transform import Params

Images = UInt8[np.ndarray, "n ..."]


class Sight(NamedTuple):
    """How many of some photographs got their own class.

    Attributes:
        right: Their number.
        images: Of how many.
    """

    right: int
    images: int

    @property
    def accuracy(self) -> float:
        """The share, from 0 to 1."""
        return self.right / self.images


def class_logits(network: Network, images: Images) -> Float[Array, "n classes"]:
    """The logits of every class for RGB images of the network's own size.

    Raises:
        ValueError: If the network reads no images, or images of another size.
    """
    return _logits(network, network.params, network.model_state, _prepared(network, images))


def accuracy(
    network: Network,
    images: Images,
    labels: Int[np.ndarray, " labels"],
    *,
    batch: int = 100,
    report: Callable[[int], None] = lambda done: None,
) -> Sight:
    """Counts the images whose likeliest class is their label.

    Args:
        network: One that classifies images.
        images: RGB, n × height × width × 3, of the network's size.
        labels: The index of each image's class.
        batch: Images at once.
        report: Called with the number of images seen so far.

    Raises:
        ValueError: If there is no image, the network reads no images or images of another size,
            or a label is none of its classes.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"accuracy: got {len(images)} images and {len(labels)} labels.")
    classes = jax.eval_shape(lambda: class_logits(network, images[:1])).shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"accuracy: labels are in [0, {classes}), got {labels.min()} to {labels.max()}."
        )

    @jax.jit
    def likeliest(params: Params, state: Any, inputs: Any) -> Int[Array, " batch"]:
        return jnp.argmax(_logits(network, params, state, inputs), axis=-1)

    right = 0
    for i in range(0, len(images), batch):
        part = images[i : i + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        found = likeliest(network.params, network.model_state, _prepared(network, filled))
        right += int(np.sum(np.asarray(found)[: len(part)] == labels[i : i + batch]))
        report(i + len(part))
    return Sight(right, len(images))


def _prepared(network: Network, images: Images) -> Any:
    if network.prepare is None:
        raise ValueError("the network reads no images, or its files do not say how.")
    wanted = (network.image_size, network.image_size, 3)
    if images.shape[1:] != wanted:
        raise ValueError(f"the network reads images of shape {wanted}, got {images.shape[1:]}.")
    return jnp.asarray(network.prepare(images))


def _logits(network: Network, params: Params, state: Any, inputs: Any) -> Float[Array, "n classes"]:
    if isinstance(network.model, StatefulModel):
        return network.model.apply(params, inputs, state)[0]
    return network.model.apply(params, inputs)
