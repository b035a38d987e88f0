"""Trains populations of LeNet-300-100, a seed a member, from stage to stage."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

from wlab import checkpoint, data, decay, models, training
from wlab.transform import WeightTransform


def train_stages(
    config: Any, chains: dict[str, WeightTransform], dataset: data.Dataset, directory: Path
) -> dict[str, list[Any]]:
    """The networks as seen at the end of each stage, a list over the seeds.

    "quantized" goes on where "pruned" ended, the other stages start anew.
    """
    inputs = int(np.prod(dataset.train["image"].shape[1:]))
    model, tx = models.lenet_300_100(inputs, dataset.classes), _optimizer(config)
    loss = _loss_fn(model.apply, dataset.peak)
    arrays = _training_part(dataset)
    seen: dict[str, list[Any]] = {}
    states: dict[str, training.TrainState] = {}
    for stage, weights in chains.items():
        state, steps = _begin(config, model, weights, tx), config.steps
        if stage == "quantized":
            state, _ = checkpoint.carry(states["pruned"], state)
            steps += config.tune
        step = training.make_step(loss, weights, tx)
        run = training.population(_chunk(step, config, size=data.size(arrays)), config.seeds)
        state = _train(stage, config, run, state, steps=steps, arrays=arrays, directory=directory)
        members = [training.member(state, seed) for seed in range(config.seeds)]
        seen[stage] = [training.params_of(one, weights) for one in members]
        states[stage] = state
    return seen


def held_out(dataset: data.Dataset) -> dict[str, np.ndarray]:
    """The last twelfth of the training images: settings were chosen on it, nothing is trained."""
    size = data.size(dataset.train)
    return data.take(dataset.train, slice(size - size // 12, size))


def _training_part(dataset: data.Dataset) -> dict[str, np.ndarray]:
    size = data.size(dataset.train)
    return data.take(dataset.train, slice(0, size - size // 12))


def _begin(
    config: Any, model: models.Model, weights: WeightTransform, tx: optax.GradientTransformation
) -> training.TrainState:
    def create(key: Any) -> training.TrainState:
        key, key_params = jax.random.split(key)
        return training.create_state(model.init(key_params), weights, tx, key=key)

    return training.create_population(create, jax.vmap(jax.random.key)(jnp.arange(config.seeds)))


def _optimizer(config: Any) -> optax.GradientTransformation:
    rate = optax.join_schedules(
        [
            training.warmup_cosine(config.lr, warmup=200, steps=config.steps),
            optax.cosine_decay_schedule(config.lr / 10, config.tune),
        ],
        [config.steps],
    )
    return decay.adamw(rate, [(".*/kernel", config.decay), (".*", None)])


def _loss_fn(apply: Any, peak: int) -> training.LossFn:
    def loss(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        del key
        logits = apply(params, batch["image"].astype(jnp.float32) / peak)
        weight = jnp.ones(len(logits))
        sums = training.cross_entropy_sums(logits, batch["label"], weight)
        return sums["loss"], (jnp.sum(weight), model_state, {"error": sums["error"]})

    return loss


def _chunk(step: training.Step, config: Any, *, size: int) -> Any:
    """Many steps as one scan; each seed reads the data in an order of its own."""

    def run_chunk(state: training.TrainState, words: Any, labels: Any) -> Any:
        seed = jax.random.bits(state.key)

        def body(state: training.TrainState, _: None) -> Any:
            rows = data.batch_indices(state.step, size=size, batch=config.batch, seed=seed)
            # Four pixels a word: a gather costs the same for a word as for a byte.
            pixels = jax.lax.bitcast_convert_type(words[rows], jnp.uint8)
            batch = {"image": pixels.reshape(config.batch, -1), "label": labels[rows]}
            return step(state, batch)

        state, metrics = jax.lax.scan(body, state, length=config.chunk)
        return state, jax.tree.map(jnp.mean, metrics)

    return run_chunk


def _train(
    stage: str,
    config: Any,
    run_chunk: Any,
    state: training.TrainState,
    *,
    steps: int,
    arrays: dict[str, np.ndarray],
    directory: Path,
) -> training.TrainState:
    """Runs chunks up to `steps`, saving each; starts from the newest checkpoint there is."""
    images = arrays["image"].reshape(len(arrays["image"]), -1)
    words = jnp.asarray(images.view(np.uint32))
    labels = jnp.asarray(arrays["label"])
    with checkpoint.Saver(directory / stage, recipe=dataclasses.asdict(config)) as saver:
        if checkpoint.steps(saver.root):
            state = saver.restore(state, recipe=dataclasses.asdict(config)).state
        first = int(state.step)
        for _ in track(range(first, steps, config.chunk), description=f"{stage:9}"):
            state, _ = run_chunk(state, words, labels)
            saver.save(int(state.step), state)
    return state
