"""The ResNet-56 that others trained to 93.20 % on CIFAR-10: as it is, trained on, and judged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.fitting import fit
from experiments.parts import in_parts
from wlab import data, pretrained, training
from wlab.transform import Params, WeightTransform

_TOGETHER = 200  # images measured at once


class Net(NamedTuple):
    """A network, whole or smaller: its weights and statistics, training and as it is used."""

    leaves: dict[str, Any]
    train: Callable[..., Any]
    use: Callable[..., Any]


@dataclass(frozen=True)
class Tuning:
    """How it is trained on.

    Attributes:
        steps: Of momentum SGD.
        batch: Images a step.
        rate: At the peak.
        seed: Of order and crops.
    """

    steps: int
    batch: int
    rate: float
    seed: int


def whole() -> Net:
    """The network as it came."""
    network = pretrained.network("resnet56-cifar10")

    def apply(leaves: Params, images: jax.Array, *, train: bool) -> Any:
        return network.model.apply(leaves["params"], images, leaves["state"], train=train)

    leaves = {"params": network.params, "state": network.model_state}
    return Net(leaves, partial(apply, train=True), partial(apply, train=False))


def trained(
    net: Net,
    weights: WeightTransform,
    train: data.Arrays,
    tuning: Tuning,
    *,
    directory: Path | None = None,
    teacher: Net | None = None,
    temperature: float = 1.0,
) -> Net:
    """After more steps on images mirrored and moved at random, seen through a transform.

    Under a directory it is saved as it goes, and goes on when it is called again. With a teacher it
    learns what that says of each image at a temperature, instead of the labels.
    """

    run = in_parts(net.train)

    def loss(params: Params, state: Any, batch: Any, key: Any) -> Any:
        images = _cropped(batch["image"].astype(jnp.float32) / 255, key)
        logits, state = run({"params": params, "state": state}, images)
        sums = training.cross_entropy_sums(logits, batch["label"], jnp.ones(len(logits)))
        told = sums["loss"]
        if teacher is not None:
            said = teacher.use(teacher.leaves, images)[0]
            losses = training.distillation_loss(logits, said, temperature=temperature)
            told = jnp.sum(losses)
        return told, (jnp.float32(len(logits)), state, {"error": sums["error"]})

    rates = training.warmup_cosine(tuning.rate, warmup=tuning.steps // 20, steps=tuning.steps)
    tx = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rates, 0.9, nesterov=True))
    state = training.init_state(
        net.leaves["params"],
        weights,
        tx,
        key=jax.random.key(tuning.seed),
        model_state=net.leaves["state"],
    )
    step = training.compile_step(training.make_step(loss, weights, tx), state)
    read = data.reader(train, tuning.batch, seed=tuning.seed)
    state = fit(step, state, read, steps=tuning.steps, directory=directory)
    seen = training.params_of(state, weights)
    return net._replace(leaves={"params": seen, "state": state.model_state})


def error(net: Net, test: data.Arrays) -> float:
    """The share of images named wrong."""

    def metrics(leaves: Params, state: Any, batch: Any) -> Any:
        del state
        logits, _ = net.use(leaves, batch["image"].astype(jnp.float32) / 255)
        sums = training.cross_entropy_sums(logits, batch["label"], batch["weight"])
        return jnp.sum(batch["weight"]), sums

    evaluate = training.make_evaluate(metrics)
    return evaluate(net.leaves, (), data.padded_batches(test, _TOGETHER))["error"]


def _cropped(images: jax.Array, key: Any) -> jax.Array:
    """Each image mirrored or not, and moved by up to four pixels."""
    key_side, key_place = jax.random.split(key)
    side = jax.random.bernoulli(key_side, shape=(len(images), 1, 1, 1))
    images = jnp.where(side, images[:, :, ::-1], images)
    wide = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    places = jax.random.randint(key_place, (len(images), 2), 0, 9)

    def cut(image: jax.Array, place: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (place[0], place[1], 0), images.shape[1:])

    return jax.vmap(cut)(wide, places)
