"""One language for "which leaves": rules, the plan they resolve to, and what a tree holds.

Run: python experiments/examples/tree.py
"""

import jax
import jax.numpy as jnp

from wlab import tree


def main() -> None:
    """Prints a plan for a small tree, then its statistics, then a rule that was misspelled."""
    key = jax.random.key(0)
    params = {
        "embed": {"embedding": jax.random.normal(key, (256, 64), jnp.bfloat16)},
        "block_0": {"ffn": {"kernel": jax.random.normal(key, (64, 64)), "bias": jnp.zeros(64)}},
    }
    decay = [(".*/bias", None), ("embed/.*", 0.01), (".*", 0.1)]
    prune = [("block_.*/kernel", True), (".*", False)]
    print(tree.explain(params, decay=decay, prune=prune), end="\n\n")

    norms = tree.norms(params)
    for path, nonzero in tree.nonzero(params).items():
        print(f"{path:20} {nonzero:6,} non-zero, norm {norms[path]:.1f}")
    print(f"{tree.count(params):,} weights, {tree.nbytes(params):,} bytes", end="\n\n")

    kernels, rest = tree.partition(lambda path, leaf: path.endswith("kernel"), params)
    print("partition:", tree.paths(kernels), "and", tree.paths(rest))
    try:
        tree.resolve([(".*/kernle", 0.1), (".*", None)], params, purpose="decay")
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    main()
