"""Checkpoints: a loop that is cut off, damaged, and resumes on fewer devices all the same.

Run: python experiments/examples/checkpoint.py
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from wlab.checkpoint import Best, Saver, listing, save_safetensors

RECIPE = {"lr": 0.1, "decay": [["kernel", 0.01], [".*", None]]}


def main() -> None:
    tx = optax.sgd(RECIPE["lr"], momentum=0.9)
    params = {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2, jnp.bfloat16)}
    state = {"params": params, "opt": tx.init(params), "key": jax.random.key(0)}

    with tempfile.TemporaryDirectory() as root:
        with Saver(root, recipe=RECIPE, keep=2, best=Best("error")) as saver:
            for step, error in enumerate([0.3, 0.1, 0.2, 0.4], start=1):
                state["params"] = jax.tree.map(lambda p: p - jnp.ones_like(p), state["params"])
                saver.save(step, state, metrics={"error": error})
        print("kept:", sorted(int(p.name) for p in Path(root).iterdir()))  # 2 is the best

        (Path(root) / "4" / "_CHECKPOINT_METADATA").write_text("")  # as after a power cut
        with Saver(root, recipe=RECIPE) as saver:
            restored = saver.restore(state, recipe=RECIPE)
        print(f"restored step {restored.step}; passed over {list(restored.skipped)}")

        save_safetensors(Path(root) / "weights.safetensors", restored.state["params"])
        for entry in listing(Path(root) / "weights.safetensors"):
            print(entry.path, entry.dtype, entry.shape, f"{entry.nbytes} bytes")


if __name__ == "__main__":
    main()
