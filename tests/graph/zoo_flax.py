"""Networks of flax linen and flax nnx."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from zoo_plain import Net, numbers


def of_linen(module: nn.Module, x: jax.Array) -> Net:
    variables = module.init(jax.random.key(0), x)
    rest = {name: part for name, part in variables.items() if name != "params"}
    return lambda p, x: module.apply({"params": p, **rest}, x), variables["params"], (x,)


def of_nnx(module: nnx.Module, x: jax.Array) -> Net:
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def apply(p: Any, x: jax.Array) -> jax.Array:
        copied = jax.tree.map(lambda v: v, rest)  # merging may not touch what it closes over
        return nnx.merge(graph, p, copied)(x)

    return apply, params, (x,)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4)(nn.gelu(nn.Dense(32)(x)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
        return x + nn.Dense(16)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        block = nn.remat(Block) if self.remat else Block
        embed = nn.Embed(50, 16)
        x = block()(embed(tokens))
        return embed.attend(nn.LayerNorm()(x))


class Scanned(nn.Module):
    """Blocks whose parameters flax itself stacks."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        class Turn(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
                return Block()(x), None

        layers = nn.scan(Turn, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return layers()(x, None)[0]


class Convolutions(nnx.Module):
    """A stem, a residual block with batch norms, a depthwise and a grouped convolution."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.inner = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.grouped = nnx.Conv(8, 12, (3, 3), feature_group_count=4, strides=2, rngs=rngs)
        self.head = nnx.Linear(12 * 4 * 4, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.relu(x + self.inner(x))
        x = nnx.relu(self.grouped(self.depthwise(x)))
        return self.head(x.reshape(x.shape[0], -1))


class Attention(nnx.Module):
    """Two stacked blocks in a scan over nnx's own stacked parameters."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.RMSNorm(16, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(
            num_heads=4, in_features=16, decode=False, rngs=rngs, qkv_features=16
        )
        self.up = nnx.Linear(16, 32, rngs=rngs)
        self.down = nnx.Linear(32, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attend(self.norm(x))
        return x + self.down(nnx.silu(self.up(x)))


FLAX = {
    "linen mlp": lambda: of_linen(Dense(), numbers((3, 16))),
    "linen transformer": lambda: of_linen(Transformer(), jnp.arange(10).reshape(2, 5)),
    "linen transformer, checkpointed": lambda: of_linen(
        Transformer(remat=True), jnp.arange(10).reshape(2, 5)
    ),
    "linen scan": lambda: of_linen(Scanned(), numbers((2, 5, 16))),
    "nnx convolutions": lambda: of_nnx(Convolutions(nnx.Rngs(0)), numbers((2, 8, 8, 3))),
    "nnx attention": lambda: of_nnx(Attention(nnx.Rngs(0)), numbers((2, 5, 16))),
}
