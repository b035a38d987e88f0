"""Networks of images that train side by side, each judged while it trains: a round of tickets."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from wlab import data, models, pruning, training
from wlab.transform import Params, WeightTransform

RULES = [("fc[12]/kernel", True), ("fc3/kernel", True), (".*", None)]
VALIDATION = 5000


@dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
        steps: How many.
        batch: Images a step.
        look: Steps between two looks at the validation images.
        tx: The optimizer.
    """

    steps: int = 50_000
    batch: int = 60
    look: int = 200
    tx: optax.GradientTransformation = field(default_factory=lambda: optax.adam(1.2e-3))


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


def sums(
    model: models.Model, params: Params, rows: Array, labels: Array, *, peak: int
) -> dict[str, Array]:
    """The summed loss and errors on images whose largest pixel is `peak`."""
    logits = model.apply(params, rows.astype(jnp.float32) / peak)
    return training.cross_entropy_sums(logits, labels, jnp.ones(len(labels)))


def ticket(density: Array) -> WeightTransform:
    """Zeros among the starts stay zero."""
    del density
    return pruning.static(None, RULES, storage="int8")


def trainer(
    model: models.Model,
    shown: Images,
    config: Training,
    members: int,
    *,
    peak: int,
    method: Callable[[Array], WeightTransform] = ticket,
) -> Callable[..., Outcome]:
    """Trains populations: `(starts, seeds, densities=1)`, a row a network.

    Args:
        model: Of flattened images.
        shown: From `images`.
        config: How each is trained.
        members: Networks of the population.
        peak: The largest value of a pixel.
        method: What is done to the weights of a network, from its density.
    """
    pixels, tx = shown.validation[0].shape[1], config.tx
    judge = partial(sums, model, peak=peak)

    def loss(params: Params, model_state: Any, batch: Any, key: Any) -> Any:
        del key
        found = judge(params, batch["image"], batch["label"])
        return found["loss"], (jnp.float32(config.batch), model_state, {})

    def one_step(step: training.Step, shown: Images, state: Any, rows: Array) -> Any:
        image = jax.lax.bitcast_convert_type(shown.words[rows], jnp.uint8)
        image = image.reshape(config.batch, -1)[:, :pixels]
        return step(state, {"image": image, "label": shown.labels[rows]})[0], None

    def run(state: training.TrainState, shown: Images) -> Any:
        weights = method(state.model_state)  # a member's own density
        one = partial(one_step, training.make_step(loss, weights, tx), shown)
        order = partial(data.batch_indices, size=len(shown.labels), batch=config.batch)
        seed = jax.random.bits(state.key)

        def look(carry: Any, _: None) -> Any:
            state, best = carry
            steps = state.step + jnp.arange(config.look)
            rows = jax.vmap(lambda step: order(step, seed=seed))(steps)
            state, _ = jax.lax.scan(one, state, rows)
            seen = weights.view(state.stored, state.weights, state.step)
            found = judge(seen, *shown.validation)["loss"] / len(shown.validation[1])
            now = (found, state.step, seen)
            best = jax.lax.cond(found < best[0], lambda: now, lambda: best)
            return (state, best), None

        first = weights.view(state.stored, state.weights, state.step)
        none = (jnp.float32(jnp.inf), state.step, first)
        looks = config.steps // config.look
        (state, best), _ = jax.lax.scan(look, (state, none), length=looks)
        final = weights.view(state.stored, state.weights, state.step)
        early, late = (judge(p, *shown.test)["error"] for p in (best[2], final))
        size = len(shown.test[1])
        return state, Outcome(final, best[1], early / size, late / size, best[0])

    population = training.population(run, members)

    @jax.jit
    @jax.vmap
    def create(start: Params, seed: Array, density: Array) -> training.TrainState:
        key = jax.random.key(seed)
        return training.create_state(start, method(density), tx, key=key, model_state=density)

    def train(starts: Params, seeds: Array, densities: Array | float = 1.0) -> Outcome:
        states = create(starts, seeds, jnp.broadcast_to(jnp.float32(densities), seeds.shape))
        _, outcome = population(states._replace(step=states.step[0]), shown)
        return outcome

    return train
