"""The page on training with rounded weights, on a network small enough to check."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.quantization.qat_recovery import (
    CONTROL,
    ROUNDED,
    TRAINED,
    Cell,
    Config,
    Seen,
    Subject,
    _cells,
    in_few_bits,
    show,
)
from wlab import training
from wlab.quantization import integer


def toy(steps: int) -> Subject:
    key = jax.random.key(0)
    x = jax.random.normal(key, (256, 32)) @ jax.random.normal(jax.random.key(2), (32, 32)) / 6
    target = x @ jax.random.normal(jax.random.key(1), (32, 4))
    params = {"kernel": jax.random.normal(jax.random.key(1), (32, 4)), "bias": jnp.zeros(4)}

    def forward(params, x):
        return x @ params["kernel"] + params["bias"][None]

    def train(weights, cell):
        def loss(params, state, batch, key):
            del key
            return jnp.sum((forward(params, x) - target) ** 2), (jnp.float32(len(x)), state, {})

        tx = optax.sgd(0.001)
        state = training.init_state(params, weights, tx, key=jax.random.key(cell.seed))
        step = training.compile_step(training.make_step(loss, weights, tx), state)
        for _ in range(steps):
            state, _ = step(state, {"x": x})
        return Seen(training.params_of(state, weights), ())

    rules = [("kernel", integer(3)), (".*", None)]
    return Subject(
        Seen(params, ()),
        *(rules, rules, forward, lambda seed: [(x,)], [".*"], train),
        lambda seen: float(jnp.mean((forward(seen.params, x) - target) ** 2)),
    )


@pytest.mark.long
def test_every_way_but_the_control_gives_few_values_and_gptq_and_training_help():
    subject, errors = toy(100), {}
    for method in (*ROUNDED, *TRAINED, CONTROL):
        seen = in_few_bits(subject, Cell("toy", method, 3, 0))
        values = [len(np.unique(column)) for column in np.asarray(seen.params["kernel"]).T]
        assert method == CONTROL or max(values) <= 7
        errors[method] = subject.judge(seen)
    assert errors["gptq"] < errors["nearest"]
    assert errors[CONTROL] < min(errors[method] for method in (*ROUNDED, *TRAINED))
    for method in TRAINED:
        untrained = in_few_bits(toy(0), Cell("toy", method, 3, 0))
        assert errors[method] < subject.judge(untrained)


def test_what_is_won_back_is_of_what_the_best_rounding_loses():
    figures = {"as it came": 1.0, "nearest": 4.0, "gptq": 3.0, "learned scales": 2.0, CONTROL: 0.5}
    config = Config(networks="stories15m", seeds=2)
    cells = [
        cell._asdict() | {"figure": figures.get(cell.method, 5.0) + cell.seed / 10}
        for cell in _cells(config)
    ]
    (row,) = (line for line in show({"cells": cells}).splitlines() if "learned" in line)
    assert "2.05" in row
    assert "2.000 to 2.100" in row
    assert row.split()[-2:] == ["49", "40"]
