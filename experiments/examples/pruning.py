"""Prune any tree in one line: by layer, by one budget, by Han's table, or in patterns.

Run     python -m experiments.examples.pruning
Expect  21,776 of 266,200 weights by the table of Han et al. 2015; training: see own_loop.py
"""

import jax
import jax.numpy as jnp

from wlab import pruning, tree

SHAPES = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}
HAN = [("fc1/kernel", 0.08), ("fc2/kernel", 0.09), ("fc3/kernel", 0.26), (".*", None)]


def main() -> None:
    """Prints what each allocation of a density of 8 % keeps of LeNet-300-100."""
    init, key = jax.nn.initializers.glorot_normal(), jax.random.key(0)
    params = {
        name: {
            "kernel": init(jax.random.fold_in(key, shape[0]), shape),
            "bias": jnp.zeros(shape[1]),
        }
        for name, shape in SHAPES.items()
    }

    rows = []
    for allocation in (pruning.uniform, pruning.globally, pruning.erk):
        kept = tree.nonzero(pruning.prune(params, 0.08, allocation=allocation))
        rows.append((allocation.__name__, *(kept[f"{name}/kernel"] for name in SHAPES)))
    print(tree.Table(("weights kept", *SHAPES), tuple(rows)), end="\n\n")

    # A rule may give a leaf a density of its own; the biases are left alone.
    pruned = pruning.prune(params, 0.08, HAN)
    print(pruning.report(pruned, HAN), end="\n\n")

    # Or a pattern: two of four neighbouring inputs, tiles of 4 × 4 that stay or go whole.
    rules = [
        ("fc1/kernel", pruning.Neighbours(2, 4)),
        ("fc2/kernel", pruning.Blocks(0.25, (4, 4))),
        (".*", None),
    ]
    print(pruning.report(pruning.prune(params, 1.0, rules), rules), end="\n\n")

    # The same rules while training: 4:4 falls to 3:4 and to 2:4 as the schedule goes.
    weights = pruning.magnitude(pruning.cubic(1.0, 0.1, end=20), rules, every=10)
    stored, state = weights.init(params, key)
    for step in (0, 10, 20):  # after each step of the optimizer
        state = weights.next_state(stored, None, state, step)
        kept = int(pruning.unpack(state.masks["fc1/kernel"], SHAPES["fc1"])[:4, 0].sum())
        print(f"after step {step:2} {kept}:4")
    print()

    # One mask by hand: exactly k scores, in any shape, without a sort, also under jit.
    kernel = params["fc2"]["kernel"]
    mask = pruning.topk_mask(jnp.abs(kernel), pruning.kept(kernel.size, 0.09))
    print("one mask is", pruning.pack(mask).nbytes, "bytes for", kernel.size, "weights")


if __name__ == "__main__":
    main()
