"""What does He's factor √2 buy? Thirty ReLU layers in a plain dict, drawn by rules.

Shows `reinit`: one line a rule, keys from paths, from shapes alone. Glorot's rule halves the
mean square of the signal at every ReLU layer, He's keeps it; LSUV sets it by measuring.
"""

import jax
import jax.numpy as jnp

from wlab.initializers import glorot_normal, he_normal, lsuv, reinit, zeros

DEPTH, WIDTH = 30, 256
LAYER = {"kernel": (WIDTH, WIDTH), "bias": (WIDTH,)}
SHAPES = {
    f"layer_{i}": {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in LAYER.items()}
    for i in range(DEPTH)
}


def layer_outputs(params, x):
    outputs = {}
    for name in SHAPES:
        x = jax.nn.relu(x) @ params[name]["kernel"] + params[name]["bias"]
        outputs[f"{name}/kernel"] = x
    return outputs


def main() -> None:
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (64, WIDTH))
    glorot, he = (
        reinit(SHAPES, [(".*/kernel", rule), (".*/bias", zeros)], key)
        for rule in (glorot_normal(), he_normal())
    )
    measured, _ = jax.jit(lambda params: lsuv(layer_outputs, params, x))(glorot)
    for name, params in {"Glorot": glorot, "He": he, "Glorot + LSUV": measured}.items():
        last = layer_outputs(params, x)[f"layer_{DEPTH - 1}/kernel"]
        print(f"{name:<13}  mean square after {DEPTH} layers: {jnp.mean(jnp.square(last)):.2g}")


if __name__ == "__main__":
    main()
