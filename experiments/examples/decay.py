"""Weight decay by rules: what halves, how fast, and what rounding would swallow.

Run: python experiments/examples/decay.py
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wlab import decay


def main() -> None:
    """Prints the plan of a decay, then measures it on weights without gradients."""
    params = {
        "embed": jnp.ones((16, 4), jnp.bfloat16),
        "dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
    }
    rules = [(".*bias", None), (".*", 0.1)]
    lr = 0.01
    print(decay.report(params, rules, lr), end="\n\n")

    tx = decay.adamw(lr, rules)
    state = tx.init(params)  # warns: no bfloat16 weight can move

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(693):
        params, state = step(params, state)
    print(f"after 693 steps of decay at lr · rate = {lr * 0.1:g}:")
    print(f"  kernel, float32   1 → {params['dense']['kernel'][0, 0]:.3f}")
    print(f"  embed,  bfloat16  1 → {params['embed'][0, 0]:.3f}")
    print(f"  bias, not decayed 1 → {params['dense']['bias'][0]:.3f}")


if __name__ == "__main__":
    main()
