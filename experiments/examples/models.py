"""A model is `(init, apply)`: sizes without allocation, a forward pass, an nnx module of your own.

Run: python experiments/examples/models.py
"""

import jax
import jax.numpy as jnp
from flax import nnx

from wlab import models, tree, tying


def main() -> None:
    """Counts GPT-2's weights, runs a small decoder, and hands out a module of one's own."""
    key = jax.random.key(0)
    gpt2 = models.TransformerConfig(layers=12, width=768, heads=12, vocab=50257, context=1024)
    shapes = jax.eval_shape(models.transformer(gpt2).init, key)
    tie = tying.Tie("head/kernel", "embed/embedding", transpose=True)
    print(f"GPT-2 small: {tree.count(shapes):,} weights,", end=" ")
    print(f"{tree.count(tying.tie_leaves(shapes, [tie])):,} tied", end="\n\n")

    small = models.TransformerConfig(layers=1, width=16, heads=2, vocab=50, context=8)
    init, apply = models.transformer(small)
    params = jax.jit(init)(key)
    print(tree.explain(params), end="\n\n")
    print("logits:", jax.jit(apply)(params, jnp.arange(8)[None]).shape)

    mine = models.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    print("a module of one's own:", tree.paths(mine.init(key)))


if __name__ == "__main__":
    main()
