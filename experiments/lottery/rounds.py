"""One round of tickets: networks that train side by side, each judged while it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from wlab import data, models, pruning, training
from wlab.transform import Params

RULES = [("fc[12]/kernel", True), ("fc3/kernel", True), (".*", None)]
VALIDATION = 5000


@dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
        steps: Of Adam.
        batch: Images a step.
        rate: The learning rate.
        look: Steps between two looks at the validation images.
    """

    steps: int = 50_000
    batch: int = 60
    rate: float = 1.2e-3
    look: int = 200


class Images(NamedTuple):
    """On the device; of training images four pixels are a word, to be gathered as one."""

    words: Array
    labels: Array
    validation: tuple[Array, Array]
    test: tuple[Array, Array]


class Outcome(NamedTuple):
    """Of each network of a population.

    Attributes:
        final: The weights at the end.
        early_step: Where the loss on the validation images was least.
        early_error: On the test images, of the weights there.
        final_error: At the end.
        loss: The least loss on the validation images.
    """

    final: Params
    early_step: Array
    early_error: Array
    final_error: Array
    loss: Array


def images(dataset: data.Dataset) -> Images:
    """The last 5,000 training images are for validation; a pixel is 0 to 255."""
    train = {k: v.reshape(len(v), -1) if k == "image" else v for k, v in dataset.train.items()}
    test = dataset.test["image"].reshape(len(dataset.test["image"]), -1)
    held = min(VALIDATION, len(train["label"]) // 10)
    part = train["image"][:-held]
    pad = -part.shape[1] % 4
    words = np.ascontiguousarray(np.pad(part, ((0, 0), (0, pad)))).view(np.uint32)
    return Images(
        jnp.asarray(words),
        jnp.asarray(train["label"][:-held]),
        (jnp.asarray(train["image"][-held:]), jnp.asarray(train["label"][-held:])),
        (jnp.asarray(test), jnp.asarray(dataset.test["label"])),
    )


def trainer(
    model: models.Model, shown: Images, config: Training, members: int, *, peak: int
) -> Callable[[Params, Array], Outcome]:
    """Trains populations: `(starts, seeds)`, a row a network; zeros among the starts stay zero."""
    weights = pruning.static(None, RULES, storage="int8")
    tx = optax.adam(config.rate)
    pixels = shown.validation[0].shape[1]

    def sums(params: Params, rows: Array, labels: Array) -> Any:
        logits = model.apply(params, rows.astype(jnp.float32) / peak)
        return training.cross_entropy_sums(logits, labels, jnp.ones(len(labels)))

    def loss(params: Params, model_state: Any, batch: Any, key: Any) -> Any:
        del key
        found = sums(params, batch["image"], batch["label"])
        return found["loss"], (jnp.float32(config.batch), model_state, {})

    step = training.make_step(loss, weights, tx)

    def one_step(seed: Array, shown: Images, state: Any, _: None) -> Any:
        size = len(shown.labels)
        rows = data.batch_indices(state.step, size=size, batch=config.batch, seed=seed)
        image = jax.lax.bitcast_convert_type(shown.words[rows], jnp.uint8)
        image = image.reshape(config.batch, -1)[:, :pixels]
        return step(state, {"image": image, "label": shown.labels[rows]})[0], None

    def run(state: training.TrainState, shown: Images) -> Any:
        seed = jax.random.bits(state.key)

        def look(carry: Any, _: None) -> Any:
            state, best = carry
            state, _ = jax.lax.scan(partial(one_step, seed, shown), state, length=config.look)
            seen = weights.view(state.stored, state.weights, state.step)
            found = sums(seen, *shown.validation)["loss"] / len(shown.validation[1])
            now = (found, state.step, seen)
            best = jax.lax.cond(found < best[0], lambda: now, lambda: best)
            return (state, best), None

        first = weights.view(state.stored, state.weights, state.step)
        none = (jnp.float32(jnp.inf), state.step, first)
        looks = config.steps // config.look
        (state, best), _ = jax.lax.scan(look, (state, none), length=looks)
        final = weights.view(state.stored, state.weights, state.step)
        early, late = (sums(p, *shown.test)["error"] for p in (best[2], final))
        size = len(shown.test[1])
        return state, Outcome(final, best[1], early / size, late / size, best[0])

    population = training.population(run, members)

    @jax.jit
    @jax.vmap
    def create(start: Params, seed: Array) -> training.TrainState:
        return training.create_state(start, weights, tx, key=jax.random.key(seed))

    def train(starts: Params, seeds: Array) -> Outcome:
        states = create(starts, seeds)
        _, outcome = population(states._replace(step=states.step[0]), shown)
        return outcome

    return train
