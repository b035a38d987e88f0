"""Tying: one stored table that both ends of a language model read and train.

Run     python -m experiments.examples.tying
"""

import jax
import jax.numpy as jnp
import optax

from wlab import tree, tying

VOCAB, WIDTH = 64, 32


def loss_fn(params: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
    """A bigram model that knows nothing of ties."""
    logits = jnp.tanh(params["embed"][ids[:-1]] @ params["hidden"]) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[1:]).mean()


def main() -> None:
    """Ties the head to the embedding, trains, and asks which end the table followed."""
    init = jax.nn.initializers.lecun_normal()
    shapes = {"embed": (VOCAB, WIDTH), "hidden": (WIDTH, WIDTH), "head": (WIDTH, VOCAB)}
    params = {name: init(jax.random.key(i), shapes[name]) for i, name in enumerate(shapes)}
    ids = jnp.cumsum(jax.random.randint(jax.random.key(9), (4096,), 1, 5)) % VOCAB

    ties = [tying.Tie("head", "embed", transpose=True, scale=WIDTH**-0.5)]
    weights, tx = tying.tie(ties), optax.adam(1e-2)
    stored, state = weights.init(params, jax.random.key(0))
    print(f"weights seen {tree.count(params):,}, stored {tree.count(stored):,}")

    @jax.jit
    def step(stored, opt):
        seen, pull = jax.vjp(lambda s: weights.view(s, state, 0), stored)
        loss, grads = jax.value_and_grad(loss_fn)(seen, ids)
        updates, opt = tx.update(pull(grads)[0], opt)
        return optax.apply_updates(stored, updates), opt, loss, tying.role_shares(grads, ties)

    opt = tx.init(stored)
    for i in range(201):
        stored, opt, loss, shares = step(stored, opt)
        if i in (0, 10, 200):
            print(f"step {i:3}  loss {loss:.3f}  output share {shares['embed']['head']:.2f}")

    try:
        tying.refuse_aliases({"embed": params["embed"], "twin": params["embed"]})
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
