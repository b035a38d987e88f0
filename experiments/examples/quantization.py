"""Weights in few bits: written, counted in true bytes, read back, and trained on their grid.

Run     python -m experiments.examples.quantization
Cost    15 s on one CPU core, most of it to compile
"""

import jax
import jax.numpy as jnp
import optax

from wlab import quantization


def predict(params, x):
    """Any function of any tree of arrays will do."""
    return jax.nn.relu(x @ params["a"]["kernel"]) @ params["b"]["kernel"]


def main() -> None:
    """Prints what int4 costs and saves, then repairs int2 by training through its grid."""
    key_a, key_b, key_x = jax.random.split(jax.random.key(0), 3)
    params = {
        "a": {"kernel": jax.random.normal(key_a, (300, 128)) / 17},
        "b": {"kernel": jax.random.normal(key_b, (128, 10)) / 11},
    }
    x = jax.random.normal(key_x, (512, 300))
    y = predict(params, x)

    int4 = quantization.int4(group_size=128, scale_dtype="float16")
    packed = quantization.quantize_tree(params, [(".*", int4)])
    print(quantization.report(params, packed))
    print(f"int4 error {error(quantization.dequantize_tree(packed), x, y):.4f}")

    # The same function runs on the codes, here with its inputs in int8 as well.
    run = jax.jit(lambda q, x: quantization.run(predict, q, x, rules=[(".*", "w8a8")]))
    print(f"int4 weights, int8 inputs: error {relative(run(packed, x), y):.4f}")

    # The formats of other tools, by name: what a weight costs, and the noise it adds.
    sqnr = jax.jit(quantization.sqnr, static_argnums=1)
    w = params["a"]["kernel"].T  # their blocks run along the last axis
    for name in ("ggml_q4_0", "nf4", "nvfp4", "ocp_mxfp4", "ocp_mxfp8_e4m3"):
        format = getattr(quantization, name)
        format = format(axis=-1, group_size=64) if name == "nf4" else format
        bits = quantization.bits_per_weight(format, (128, 4096))
        print(f"{name:15}{bits:6.2f} bits{sqnr(w, format):6.1f} dB")

    # In training the model sees the grid while full weights are stored and updated.
    int2 = quantization.int2(group_size=32)
    fixed = quantization.fake_quant(int2, [(".*", True)])
    print("int2, by absmax:", end=" ")
    trained(fixed, params, x, y)

    # The scales can be learned too. What was trained is packed, bit for bit.
    learned = quantization.lsq(int2, [(".*", True)])
    print("int2, learned scales:", end=" ")
    stored, state = trained(learned, params, x, y)
    packed = quantization.lsq_quantized(stored, state, int2, [(".*", True)])
    print(f"packed: error {error(quantization.dequantize_tree(packed), x, y):.4f}")


def trained(grid, params, x, y):
    """Stored weights and state after 300 steps on what a transform shows; prints both errors."""
    stored, state = jax.jit(grid.init)(params, jax.random.key(1))
    seen = jax.jit(grid.finalize)
    print(f"error {error(seen(stored, state), x, y):.4f}, then trained:", end=" ")
    tx = optax.adam(1e-3)
    opt = tx.init(stored)

    @jax.jit
    def train(stored, opt, step):
        grads = jax.grad(lambda w: error(grid.view(w, state, step), x, y))(stored)
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(stored, updates), opt

    for step in range(300):
        stored, opt = train(stored, opt, step)
    print(f"{error(seen(stored, state), x, y):.4f}")
    return stored, state


def error(params, x, y):
    """The squared error, as a fraction of the target's power."""
    return relative(predict(params, x), y)


def relative(outputs, y):
    """Likewise, of outputs."""
    return jnp.mean(jnp.square(outputs - y)) / jnp.mean(jnp.square(y))


if __name__ == "__main__":
    main()
