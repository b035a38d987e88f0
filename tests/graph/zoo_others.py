"""Networks of equinox and haiku, and wlab's own."""

from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from zoo_plain import Net, numbers

from wlab.models import LlamaConfig, LSTMConfig, Model, StatefulModel, ViTConfig, llama, lstm, vit
from wlab.models.resnet import ResNetConfig, resnet


def of_equinox(module: Any, x: jax.Array) -> Net:
    params, rest = eqx.partition(module, eqx.is_inexact_array)
    return lambda p, x: jax.vmap(eqx.combine(p, rest))(x), params, (x,)


def of_haiku(f: Any, x: jax.Array) -> Net:
    net = hk.without_apply_rng(hk.transform_with_state(f))
    params, state = net.init(jax.random.key(0), x, True)
    return lambda p, x: net.apply(p, state, x, False)[0], params, (x,)


def of_wlab(model: Model, x: jax.Array) -> Net:
    def apply(p: Any, x: jax.Array) -> jax.Array:
        return jax.tree.leaves(model.apply(p, x))[0]  # of an LSTM not what it carries on

    return apply, model.init(jax.random.key(0)), (x,)


def of_stateful(model: StatefulModel, x: jax.Array) -> Net:
    params, state = model.init(jax.random.key(0))
    return lambda p, x: model.apply(p, x, state)[0], params, (x,)


class Pictures(eqx.Module):
    """A convolution and attention over its cells, as equinox orders axes: outputs first."""

    conv: eqx.nn.Conv2d
    attend: eqx.nn.MultiheadAttention
    out: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(3, 8, 3, key=keys[0])
        self.attend = eqx.nn.MultiheadAttention(2, 8, key=keys[1])
        self.out = eqx.nn.Linear(8, 4, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        cells = jax.nn.relu(self.conv(x)).reshape(8, -1).T
        return self.out(self.attend(cells, cells, cells).mean(0))


def _haiku_mlp(x: jax.Array, train: bool) -> jax.Array:
    del train
    return hk.nets.MLP([12, 4])(x)


def _haiku_convolutions(x: jax.Array, train: bool) -> jax.Array:
    x = hk.Conv2D(8, 3, with_bias=False)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training=train)
    x = jax.nn.relu(x + hk.Conv2D(8, 3)(jax.nn.relu(x)))
    return hk.Linear(4)(x.mean((1, 2)))


OTHERS = {
    "equinox mlp": lambda: of_equinox(
        eqx.nn.MLP(8, 4, 12, 1, key=jax.random.key(0)), numbers((3, 8))
    ),
    "equinox pictures": lambda: of_equinox(Pictures(jax.random.key(0)), numbers((2, 3, 6, 6))),
    "haiku mlp": lambda: of_haiku(_haiku_mlp, numbers((3, 8))),
    "haiku convolutions": lambda: of_haiku(_haiku_convolutions, numbers((2, 6, 6, 3))),
    "llama": lambda: of_wlab(
        llama(LlamaConfig(2, width=16, heads=4, kv_heads=2, ffn=24, vocab=50, context=8)),
        jnp.arange(10).reshape(2, 5),
    ),
    "lstm": lambda: of_wlab(lstm(LSTMConfig(2, 12, 30)), jnp.arange(10).reshape(2, 5)),
    "vit": lambda: of_wlab(
        vit(ViTConfig(2, width=16, heads=4, image_size=8, patch=4, classes=5)),
        numbers((2, 8, 8, 3)),
    ),
    "resnet": lambda: of_stateful(resnet(ResNetConfig((1, 1), (8, 16), 5)), numbers((2, 8, 8, 3))),
}
