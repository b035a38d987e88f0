"""Multiply-adds against closed forms and XLA's own count."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import net
from zoo_plain import numbers

from wlab import graph, models
from wlab.models.resnet import ResNetConfig, cifar


def read(name: str) -> graph.Graph:
    fn, params, inputs = net(name)
    return graph.read(fn, params, *inputs)


def test_matrices_cost_their_size_for_every_row():
    assert graph.costs(read("plain mlp")) == {
        "down/kernel": (3 * 12 * 4, 3 * 4),
        "idle": (0, 0),
        "up/bias": (0, 0),
        "up/kernel": (3 * 8 * 12, 3 * 12),
    }


def test_convolutions_cost_their_window_at_every_place():
    found = graph.costs(read("nnx convolutions"))
    assert found["stem/kernel"] == (2 * 8 * 8 * 8 * 3 * 3 * 3, 2 * 8 * 8 * 8)
    assert found["depthwise/kernel"] == (2 * 8 * 8 * 8 * 3 * 3, 2 * 8 * 8 * 8)
    assert found["grouped/kernel"] == (2 * 4 * 4 * 12 * 3 * 3 * 2, 2 * 4 * 4 * 12)


def test_turns_of_a_scan_count_and_a_tied_table_costs_its_product():
    found = graph.costs(read("plain scan"))
    assert found["blocks/qkv"] == (3 * 10 * 16 * 48, 3 * 10 * 48)
    assert found["embed"] == (10 * 16 * 50, 10 * 50)
    attention = 2 * 3 * 2 * 4 * 5 * 5 * 4  # scores and mixtures, of three blocks
    weights = sum(cost.multiply_adds for cost in found.values())
    assert graph.multiply_adds(read("plain scan")) == weights + attention


@pytest.mark.parametrize(
    ("config", "size", "published"),
    [
        # He et al. 2015 (arXiv:1512.03385), table 1; Li et al. 2017 (arXiv:1608.08710), table 1.
        (
            ResNetConfig(
                (3, 4, 6, 3),
                (64, 128, 256, 512),
                1000,
                bottleneck=True,
                large=True,
                early_stride=True,
            ),
            224,
            3.8e9,
        ),
        (cifar(56), 32, 1.25e8),
    ],
)
def test_residual_networks_cost_what_their_papers_say(
    config: ResNetConfig, size: int, published: float
):
    model = models.resnet(config)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    read = graph.read(lambda p, s, x: model.apply(p, x, s)[0], params, state, image)
    assert graph.multiply_adds(read) == pytest.approx(published, rel=0.02)


def test_xla_counts_as_many():
    fn, params, inputs = net("llama")
    flops = jax.jit(fn).lower(params, *inputs).compile().cost_analysis()["flops"]
    found = 2 * graph.multiply_adds(graph.read(fn, params, *inputs))
    assert found < flops < 1.35 * found  # it counts additions, norms and curves too


def test_branches_and_open_loops_count_once():
    def fn(p: Any, x: jax.Array) -> jax.Array:
        x = jax.lax.cond(x[0, 0] > 0, lambda x: x @ p["yes"], lambda x: x @ p["no"], x)
        return jax.lax.while_loop(lambda x: x[0, 0] > 1, lambda x: x @ p["again"], x)

    params = {name: numbers((4, 4)) for name in ("yes", "no", "again")}
    found = graph.costs(graph.read(fn, params, numbers((2, 4))))
    np.testing.assert_array_equal([cost.multiply_adds for cost in found.values()], 2 * 4 * 4)
