"""The parts of a training run, built from the flags of `wlab train`."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wlab import decay, models, pruning, quantization, training, tree
from wlab.data import Dataset
from wlab.transform import Key, Params, WeightTransform, chain

KERNELS: tree.Rules[bool] = [(".*/kernel", True), (".*", False)]
_HIDDEN = {"lenet-300-100": "fc[12]/kernel", "lenet-5": "fc1/kernel"}  # Muon's matrices
_FLAGS = ("data", "model", "seed", "steps", "batch", "accumulate", "optimizer", "lr", "schedule")
_FLAGS += ("warmup", "decay", "clip", "bf16", "guard", "density", "bits", "ema")


class Parts(NamedTuple):
    """What is placed on devices, run and measured."""

    init: Callable[[Key], Params]
    weights: WeightTransform
    tx: optax.GradientTransformation
    step: training.Step
    guard: training.Guard | None
    metric_fn: Callable[..., Any]


def recipe(flags: argparse.Namespace) -> dict[str, Any]:
    """The flags on which the trained weights depend, but for rounding; kept in checkpoints."""
    return {name: getattr(flags, name) for name in _FLAGS}


def build(flags: argparse.Namespace, dataset: Dataset) -> Parts:
    """The parts of a run, all of them pure.

    Raises:
        ValueError: If they do not fit each other or the data.
    """
    model, weights, tx = _network(flags, dataset), _transform(flags), _optimizer(flags)

    def logits(params: Params, image: Any) -> Any:
        dtype = jax.tree.leaves(params)[0].dtype
        return model.apply(params, image.astype(dtype) / dataset.peak)

    def loss_fn(params: Params, model_state: Any, batch: Any, key: Key) -> Any:
        del key
        rows = jnp.ones(len(batch["label"]), jnp.float32)
        sums = training.cross_entropy_sums(logits(params, batch["image"]), batch["label"], rows)
        return sums["loss"], (jnp.sum(rows), model_state, {"error": sums["error"]})

    def metric_fn(params: Params, model_state: Any, batch: Any) -> Any:
        del model_state
        rows = batch["weight"]
        sums = training.cross_entropy_sums(logits(params, batch["image"]), batch["label"], rows)
        return jnp.sum(rows), sums

    guard = training.Guard() if flags.guard else None
    loss = training.Precision().wrap(loss_fn) if flags.bf16 else loss_fn
    step = training.make_step(
        loss, weights, tx, accumulate=flags.accumulate, guard=guard, ema=flags.ema
    )
    return Parts(model.init, weights, tx, step, guard, metric_fn)


def _network(flags: argparse.Namespace, dataset: Dataset) -> models.Model:
    shape = dataset.train["image"].shape[1:]
    if flags.model == "lenet-5":
        return models.lenet5(shape[0], int(np.prod(shape[2:])), dataset.classes)
    return models.lenet_300_100(int(np.prod(shape)), dataset.classes)


def _transform(flags: argparse.Namespace) -> WeightTransform:
    members = {}
    if flags.density is not None:
        end = int(0.7 * flags.steps)  # what is left recovers in the last steps
        schedule = pruning.cubic(1.0, flags.density, end=end)
        every = max(1, min(100, end // 20))
        members["prune"] = pruning.magnitude(schedule, KERNELS, every=every)
    if flags.bits is not None:
        members["quant"] = quantization.fake_quant(quantization.integer(flags.bits), KERNELS)
    return chain(**members)


def _optimizer(flags: argparse.Namespace) -> optax.GradientTransformation:
    rate, rules = _rate(flags), [(".*/kernel", flags.decay or None), (".*", None)]
    if flags.optimizer == "muon":
        hidden = [(_HIDDEN[flags.model], True), (".*", None)]
        return decay.muon(rate, hidden, rules, adam_scale=0.05, clip=flags.clip)
    return getattr(decay, flags.optimizer)(rate, rules, clip=flags.clip)


def _rate(flags: argparse.Namespace) -> optax.Schedule:
    peak, warmup, steps = flags.lr, flags.warmup, flags.steps
    match flags.schedule:
        case "cosine":
            return training.warmup_cosine(peak, warmup=warmup, steps=steps)
        case "wsd":
            return training.wsd(peak, warmup=warmup, decay=steps // 5, steps=steps)
    return optax.warmup_constant_schedule(0.0, peak, warmup)
