"""An equinox model on a mesh of devices, its kernels split and pruned where they lie.

Run     python -m experiments.examples.equinox_model
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from wlab import data, decay, pruning, training, tree


def main() -> None:
    """Prunes an MLP to 10 % with every kernel split over all devices there are."""
    model = eqx.nn.MLP(64, 10, 64, depth=2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        images = batch["image"].reshape(-1, 64) / 16.0
        logits = jax.vmap(eqx.combine(params, static))(images)
        sums = training.cross_entropy_sums(logits, batch["label"], jnp.ones(len(images)))
        return sums["loss"], (len(images), model_state, {"error": sums["error"]})

    kernels = [(r"layers/[01]/weight", True), (".*", False)]
    weights = pruning.magnitude(pruning.cubic(1.0, 0.1, end=200), kernels, every=20)
    tx = decay.adamw(5e-3, [(".*/weight", 1e-2), (".*", None)], clip=1.0)
    mesh = training.mesh_from("data=-1")
    rules = [(r"layers/[01]/weight", training.fsdp("data")), (".*", PartitionSpec())]
    state = training.init_state(params, weights, tx, key=jax.random.key(0), mesh=mesh, rules=rules)
    step = training.compile_step(training.make_step(loss_fn, weights, tx), state, mesh=mesh)
    read = data.reader(data.digits().train, 64, seed=0)
    for i in range(299):
        state, _ = step(state, read(i))
    state, metrics = step(state, read(299))
    print(f"devices {mesh.size}, training error {100 * float(metrics['error']):.1f} %")
    print(pruning.report(training.params_of(state, weights)))
    print(f"bytes of masks {tree.nbytes(state.weights):,} for {tree.count(params):,} weights")


if __name__ == "__main__":
    main()
