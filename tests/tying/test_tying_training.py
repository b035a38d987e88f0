"""Training through a tie is training the model whose author tied it by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab.tree import leaves
from wlab.tying import Tie, tie

VOCAB, WIDTH, STEPS = 11, 8, 10
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
TIES = {
    "plain": Tie("head/kernel", "embed/embedding", transpose=True),
    "T5": Tie("head/kernel", "embed/embedding", transpose=True, scale=WIDTH**-0.5),
}


def start():
    rng = np.random.default_rng(0)
    shapes = {"embed": (VOCAB, WIDTH), "head": (WIDTH, VOCAB), "mlp": (WIDTH, WIDTH)}
    embed, head, mlp = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes.values())
    return {
        "embed": {"embedding": embed},
        "head": {"kernel": head},
        "mlp": {"kernel": mlp},
    }


def batches():
    return jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, (STEPS, 2, 16)))


def loss_of(table, mlp, head, ids):
    """Predicts ids[1] from ids[0] with one hidden layer."""
    logits = jnp.tanh(table[ids[0]] @ mlp) @ head
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[1]).mean()


def seen_loss(params, ids):
    params = leaves(params)
    return loss_of(params["embed/embedding"], params["mlp/kernel"], params["head/kernel"], ids)


def train(loss, stored):
    """The stored tree after each of ten steps, stacked."""

    def step(carry, ids):
        stored, opt = carry
        grads = jax.grad(loss)(stored, ids)
        updates, opt = TX.update(grads, opt, stored)
        stored = optax.apply_updates(stored, updates)
        return (stored, opt), stored

    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises floats to int32 powers
        return jax.jit(lambda s: jax.lax.scan(step, (s, TX.init(s)), batches())[1])(stored)


@pytest.mark.parametrize("name", TIES)
def test_ten_adam_steps_equal_a_hand_written_tied_model(name, key):
    ties, params = [TIES[name]], start()
    weights = tie(ties)
    stored, state = weights.init(params, key)

    def by_hand(stored, ids):
        head = stored["table"].T
        head = head * WIDTH**-0.5 if name == "T5" else head
        return loss_of(stored["table"], stored["mlp"], head, ids)

    def tied(stored, ids):
        return seen_loss(weights.view(stored, state, 0), ids)

    twin = {"mlp": params["mlp"]["kernel"], "table": params["embed"]["embedding"]}
    ours, theirs = leaves(train(tied, stored)), train(by_hand, twin)
    np.testing.assert_allclose(ours["embed/embedding"], theirs["table"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours["mlp/kernel"], theirs["mlp"], rtol=1e-6, atol=1e-7)
    assert np.abs(ours["embed/embedding"][-1] - params["embed"]["embedding"]).max() > 0.05


def test_the_stored_gradient_is_that_of_the_hand_written_model(key):
    ties, params, ids = [TIES["T5"]], start(), batches()[0]
    weights = tie(ties)
    stored, state = weights.init(params, key)
    grads = jax.jit(jax.grad(lambda s: seen_loss(weights.view(s, state, 0), ids)))(stored)
    by_hand = jax.jit(
        jax.grad(lambda e: loss_of(e, params["mlp"]["kernel"], e.T * WIDTH**-0.5, ids))
    )(params["embed"]["embedding"])
    np.testing.assert_allclose(grads["embed"]["embedding"], by_hand, rtol=1e-6, atol=1e-7)


def test_one_array_under_two_keys_is_not_tied_and_parts_at_the_first_step(key):
    """The trap that `refuse_aliases` is for."""
    params = start()
    table = params["embed"]["embedding"]
    alias = {"embed": {"embedding": table}, "mlp": params["mlp"], "twin": {"embedding": table}}

    def loss(p, ids):
        return loss_of(p["embed"]["embedding"], p["mlp"]["kernel"], p["twin"]["embedding"].T, ids)

    parted = train(loss, alias)
    apart = np.abs(parted["embed"]["embedding"] - parted["twin"]["embedding"])[0].max()
    assert apart > 5e-3  # Adam moves a weight by its learning rate of 1e-2

    weights = tie([Tie("twin/embedding", "embed/embedding")])
    stored, state = weights.init(alias, key)
    trained = train(lambda s, ids: loss(weights.view(s, state, 0), ids), stored)
    assert list(leaves(trained)) == ["embed/embedding", "mlp/kernel"]


def test_a_tied_tree_can_be_donated_and_an_aliased_one_cannot(key):
    table = start()["embed"]["embedding"]
    alias = {"embed": table, "head": table}
    ties = [Tie("head", "embed")]
    decay = jax.jit(lambda tree: jax.tree.map(lambda x: 0.5 * x, tree), donate_argnums=0)
    with pytest.raises(Exception, match="donate the same buffer twice"):
        jax.block_until_ready(decay(alias))

    stored, state = tie(ties).init({"embed": jnp.copy(table), "head": jnp.copy(table)}, key)
    seen = tie(ties).finalize(stored, state)
    halved = decay(stored)
    assert stored["embed"].is_deleted()
    np.testing.assert_array_equal(halved["embed"], 0.5 * seen["head"])
