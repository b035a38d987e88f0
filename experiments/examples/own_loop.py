"""A loop of your own: any weight transform, any optax optimizer, none of `wlab.training`.

Run     python -m experiments.examples.own_loop
"""

import jax
import jax.numpy as jnp
import optax

import wlab
from wlab import data, pruning, quantization, tree

KERNELS = [("w.", True), ("b.", False)]


def loss_fn(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """A plain dict model: nothing here knows that weights are pruned or rounded."""
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main() -> None:
    """Prunes to 20 % while training with 4-bit weights, in one compiled step."""
    train = data.digits().train
    x, y = jnp.asarray(train["image"]).reshape(-1, 64) / 16.0, jnp.asarray(train["label"])
    init, keys = jax.nn.initializers.he_normal(), jax.random.split(jax.random.key(0))
    params = {"w1": init(keys[0], (64, 64)), "b1": jnp.zeros(64)}
    params |= {"w2": init(keys[1], (64, 10)), "b2": jnp.zeros(10)}

    weights = wlab.chain(
        prune=pruning.magnitude(pruning.cubic(1.0, 0.2, end=300), KERNELS, every=20),
        quant=quantization.fake_quant(quantization.int4(group_size=16), KERNELS),
    )
    tx = optax.adam(1e-2)
    stored, state = weights.init(params, jax.random.key(1))
    opt = tx.init(stored)

    @jax.jit
    def step(stored, opt, state, i):
        loss, grads = jax.value_and_grad(lambda s: loss_fn(weights.view(s, state, i), x, y))(stored)
        updates, opt = tx.update(grads, opt, stored)
        stored = weights.keep_zeros(optax.apply_updates(stored, updates), state)
        opt = tree.matched(lambda copy: weights.keep_zeros(copy, state), opt, stored)
        state = weights.next_state(stored, None, state, i)
        return weights.keep_zeros(stored, state), opt, state, loss

    for i in range(401):
        stored, opt, state, loss = step(stored, opt, state, i)
        if i % 100 == 0:
            print(f"step {i:3}  loss {loss:.3f}  density {tree.density(stored):.2f}")
    seen = weights.finalize(stored, state)
    print("levels of the first column:", len(jnp.unique(seen["w1"][:16, 0])))


if __name__ == "__main__":
    main()
