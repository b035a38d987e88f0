"""A flax nnx model in the ready-made train step: tied, averaged and guarded.

Run     python -m experiments.examples.nnx_model
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from wlab import data, training, tree, tying


class Net(nnx.Module):
    """Three layers; the two in the middle have one shape."""

    def __init__(self, rngs: nnx.Rngs):
        self.fc1, self.fc2 = nnx.Linear(64, 48, rngs=rngs), nnx.Linear(48, 48, rngs=rngs)
        self.fc3, self.head = nnx.Linear(48, 48, rngs=rngs), nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in (self.fc1, self.fc2, self.fc3):
            x = nnx.relu(layer(x))
        return self.head(x)


def main() -> None:
    """Shares the two middle layers, trains, and evaluates the averaged weights."""
    dataset = data.digits()
    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)

    def logits(params: Any, batch: Any) -> jax.Array:
        return nnx.merge(graph, params)(batch["image"].reshape(-1, 64) / 16.0)

    def loss_fn(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits(params, batch), batch["label"]
        )
        return jnp.sum(losses), (len(losses), model_state, {})

    def metric_fn(params: Any, model_state: Any, batch: Any) -> Any:
        sums = training.cross_entropy_sums(logits(params, batch), batch["label"], batch["weight"])
        return jnp.sum(batch["weight"]), sums

    weights = tying.tie([tying.Tie("fc3/kernel", "fc2/kernel")])
    tx, guard = optax.adamw(training.warmup_cosine(5e-3, warmup=20, steps=300)), training.Guard()
    state = training.init_state(params, weights, tx, key=jax.random.key(0), ema=True)
    step = training.make_step(loss_fn, weights, tx, guard=guard, ema=0.98)
    read = data.reader(dataset.train, 64, seed=0)
    state = training.fit(
        training.compile_step(step, state), state, read, steps=300, guard=guard, progress=False
    )
    average = training.params_of(state, weights, average=True)
    found = training.make_evaluate(metric_fn)(average, (), data.padded_batches(dataset.test, 100))
    print(f"weights seen {tree.count(average):,}, stored {tree.count(state.stored):,}")
    print(f"test error of the average {100 * found['error']:.1f} %")


if __name__ == "__main__":
    main()
