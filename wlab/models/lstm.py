"""A language model of stacked LSTMs, as Press & Wolf and the PTB papers use."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from wlab.models.layers import Embed, Initializer
from wlab.models.model import Model, from_nnx


@dataclass(frozen=True)
class LSTMConfig:
    """Sizes of an LSTM language model.

    Attributes:
        layers: Number of LSTMs, each of `width` units.
        width: Size of the embedding and of every layer.
        vocab: Number of tokens.
        hidden_biases: Whether a gate has a second bias, beside the hidden kernel, as in cuDNN and
            PyTorch. It adds nothing that the first cannot say, but files have it.
    """

    layers: int
    width: int
    vocab: int
    hidden_biases: bool = False


class Carry(NamedTuple):
    """What an LSTM layer remembers from one segment of text to the next."""

    cell: Float[Array, "batch width"]
    hidden: Float[Array, "batch width"]


class LSTM(nnx.Module):
    r"""$c' = \sigma(f)c + \sigma(i)\tanh(g),\; h' = \sigma(o)\tanh(c')$.

    A gate has one bias, or two. The gates lie side by side in the kernels, in the order i, f, g, o.

    Reference:
        Zaremba et al. 2014 (arXiv:1409.2329), §3.
    """

    def __init__(self, config: LSTMConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs)
        self.input = linear(config.width, 4 * config.width)
        self.hidden = linear(config.width, 4 * config.width, use_bias=config.hidden_biases)

    def __call__(
        self, x: Float[Array, "batch time width"], carry: Carry
    ) -> tuple[Float[Array, "batch time width"], Carry]:
        def step(carry: Carry, inputs: Array) -> tuple[Carry, Array]:
            i, f, g, o = jnp.split(inputs + self.hidden(carry.hidden), 4, axis=-1)
            cell = jax.nn.sigmoid(f) * carry.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return Carry(cell, hidden), hidden

        carry, outputs = jax.lax.scan(step, carry, jnp.swapaxes(self.input(x), 0, 1))
        return jnp.swapaxes(outputs, 0, 1), carry


class LSTMLM(nnx.Module):
    """Tokens to the logits of each next token."""

    def __init__(self, config: LSTMConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        self.embed = Embed(config.vocab, config.width, init=kernel_init, rngs=rngs)
        self.layers = config.layers
        for i in range(config.layers):
            setattr(self, f"lstm_{i}", LSTM(config, kernel_init=kernel_init, rngs=rngs))
        self.head = nnx.Linear(config.width, config.vocab, kernel_init=kernel_init, rngs=rngs)

    def __call__(
        self, tokens: Int[Array, "batch time"], carries: tuple[Carry, ...] | None = None
    ) -> tuple[Float[Array, "batch time vocab"], tuple[Carry, ...]]:
        x = self.embed(tokens)
        rest = jnp.zeros_like(x[:, 0])
        carries = (Carry(rest, rest),) * self.layers if carries is None else carries
        new = []
        for i, carry in enumerate(carries):
            x, carry = getattr(self, f"lstm_{i}")(x, carry)
            new.append(carry)
        return self.head(x), tuple(new)


def lstm(config: LSTMConfig, *, kernel_init: Initializer | None = None) -> Model:
    """An LSTM language model: `apply(params, tokens, carries=None) -> (logits, carries)`.

    Hand the carries of one segment to the next to train on running text. Like the transformer's,
    the head is stored beside the embedding, and tied, if at all, by `wlab.tying`.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels and tables. None stands for
            uniform in ±0.1.

    Reference:
        Press & Wolf 2017 (arXiv:1608.05859), §3; Zaremba et al. 2014 (arXiv:1409.2329).
    """
    return from_nnx(lambda rngs: LSTMLM(config, kernel_init=kernel_init or _uniform, rngs=rngs))


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -0.1, 0.1)
