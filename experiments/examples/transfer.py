"""Transfer: a LeNet that knows the digits 0-4 learns 5-9 by rank-4 adapters on a 4-bit base.

Run     python -m experiments.examples.transfer
Expect  3,496 of 50,610 weights trained, nearly all new digits right, the base never touched
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wlab
from wlab import data, models, quantization, training, transfer, tree


def main() -> None:
    """Trains on half the digits, then only the factors of the adapters on the other half."""
    sets, model = data.digits(), models.lenet_300_100(64)
    x, y = np.float32(sets.train["image"]).reshape(-1, 64) / 16, sets.train["label"]

    def loss_fn(params, model_state, batch, key):
        logits = model.apply(params, batch["x"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        right = (logits.argmax(-1) == batch["y"]).sum()
        return losses.sum(), (jnp.float32(len(losses)), model_state, {"right": right})

    def trained(params, weights, rows, steps):
        tx, batch, metrics = optax.adam(3e-3), {"x": x[rows], "y": y[rows]}, {}
        state = training.init_state(params, weights, tx, key=jax.random.key(0))
        step = training.compile_step(training.make_step(loss_fn, weights, tx), state)
        for _ in range(steps):
            state, metrics = step(state, batch)
        print(f"{100 * float(metrics['right']):.1f} % right")
        return state

    kernels = [(".*/kernel", True), (".*", None)]
    base = transfer.Base(
        lambda w: quantization.quantize(w, quantization.int4(group_size=32)),
        quantization.dequantize,
    )
    identity = wlab.identity()
    old = training.params_of(trained(model.init, identity, y < 5, 60), identity)
    lora = transfer.lora(transfer.Adapter(4, alpha=16), kernels, base=base)
    state = trained(old, lora, y >= 5, 200)
    print(f"{tree.count(state.stored):,} of {tree.count(old):,} weights trained")
    print(tree.explain(state.stored))


if __name__ == "__main__":
    main()
