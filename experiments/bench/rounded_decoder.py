"""A step of a small decoder that sees its kernels rounded against the plain optax step."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import steps
from experiments.bench.bench import Bench, timed
from experiments.bench.pair import Thunk
from wlab import models, quantization
from wlab.quantization import Format
from wlab.transform import Params

KERNELS = [(r"block_\d+/.*/kernel", True), (".*", None)]


@dataclass(frozen=True)
class Decoder:
    """A decoder on random tokens.

    Attributes:
        config: Its sizes.
        batch: Rows a step, of as many tokens as the context has.
    """

    config: models.LlamaConfig
    batch: int

    def params(self) -> Params:
        """The same fresh weights at every call."""
        return models.llama(self.config).init(jax.random.key(0))

    def batches(self) -> Iterator[Any]:
        """An endless round of 4 batches, the same at every call, on the device."""
        shape = (4, self.batch, self.config.context)
        tokens = np.random.default_rng(0).integers(0, self.config.vocab, shape, np.int32)
        return cycle([jnp.asarray(rows) for rows in tokens])

    def mean_loss(self, params: Params, batch: Any) -> jax.Array:
        """The mean cross-entropy of the next token."""
        logits = models.llama(self.config).apply(params, batch)[:, :-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
        return jnp.mean(losses)

    def loss_fn(self, params: Params, model_state: Any, batch: Any, key: Any) -> Any:
        """As `wlab.training.make_step` asks for it."""
        del key
        return self.mean_loss(params, batch), (jnp.float32(1), model_state, {})


def network() -> Decoder:
    """4 blocks of width 256, 3.3 million weights, on 8 rows of 128 tokens."""
    config = models.LlamaConfig(4, 256, heads=4, kv_heads=4, ffn=688, vocab=512, context=128)
    return Decoder(config, batch=8)


def benches(task: Decoder) -> list[Bench]:
    """int8 with a scale for each output, int4 in groups of 32."""

    def row(name: str, format: Format) -> Bench:
        def pair() -> tuple[Thunk, Thunk]:
            weights = quantization.fake_quant(format, KERNELS)
            return steps.library(task, weights), steps.plain(task)

        return Bench(name, "plain", 1.05, timed(pair))

    return [
        row("fake-quant-int8", quantization.int8()),
        row("fake-quant-int4-g32", quantization.int4(group_size=32)),
    ]
