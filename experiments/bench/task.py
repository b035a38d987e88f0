"""The network that the step benches train, and the plain optax step that they are measured by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wlab import models
from wlab.transform import Params

Batch: TypeAlias = dict[str, np.ndarray]
MeanLoss: TypeAlias = Callable[[Params, Any], jax.Array]


class Trainee(Protocol):
    """A network with a loss and data: what a step takes."""

    def params(self) -> Params:
        """The same fresh weights at every call."""
        ...

    def batches(self) -> Iterator[Any]:
        """An endless round of batches, the same at every call, on the device."""
        ...

    def mean_loss(self, params: Params, batch: Any) -> jax.Array:
        """As a plain loop has it."""
        ...

    def loss_fn(self, params: Params, model_state: Any, batch: Any, key: Any) -> Any:
        """As `wlab.training.make_step` asks for it."""
        ...


@dataclass(frozen=True)
class Task:
    """A fully connected network on random images.

    Attributes:
        sizes: Units: inputs, hidden layers, outputs.
        batch: Images a step.
    """

    sizes: tuple[int, ...]
    batch: int

    def params(self) -> Params:
        """The same fresh weights at every call."""
        return models.mlp(self.sizes).init(jax.random.key(0))

    def kernels(self) -> dict[str, int]:
        """The weights in the kernel of each layer."""
        return {f"fc{i}": m * n for i, (m, n) in enumerate(pairwise(self.sizes), start=1)}

    def batches(self) -> Iterator[Any]:
        """An endless round of 16 batches, the same at every call, on the device."""
        rng = np.random.default_rng(0)
        rows = (16, self.batch)
        images = jnp.asarray(rng.random((*rows, self.sizes[0]), np.float32))
        labels = jnp.asarray(rng.integers(0, self.sizes[-1], rows, np.int32))
        return cycle([{"image": x, "label": y} for x, y in zip(images, labels, strict=True)])

    def losses(self, params: Params, batch: Any) -> jax.Array:
        """The cross-entropy of each image."""
        logits = models.mlp(self.sizes).apply(params, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    def mean_loss(self, params: Params, batch: Any) -> jax.Array:
        """As a plain loop has it."""
        return jnp.mean(self.losses(params, batch))

    def loss_fn(self, params: Params, model_state: Any, batch: Any, key: Any) -> Any:
        """As `wlab.training.make_step` asks for it."""
        del key
        losses = self.losses(params, batch)
        return jnp.sum(losses), (jnp.float32(losses.size), model_state, {})
