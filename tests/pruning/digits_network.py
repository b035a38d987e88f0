"""A small network that has learnt the embedded digits: a real input for scores and densities."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp

from wlab.data import digits

SIZES = (64, 32, 16, 10)


def logits(params, x):
    for i, layer in enumerate(params.values()):
        x = jax.nn.relu(x) if i else x
        x = x @ layer["kernel"] + layer["bias"][None]
    return x


def loss(params, x, y):
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), y[:, None], axis=1)
    return -jnp.mean(picked)


@cache
def learnt():
    """The parameters, and the training and test set as a batch each."""
    data = digits()
    train, test = (
        (jnp.asarray(part["image"].reshape(-1, 64), jnp.float32) / 16, jnp.asarray(part["label"]))
        for part in (data.train, data.test)
    )
    params = {}
    for i, (rows, columns) in enumerate(pairwise(SIZES)):
        kernel = jax.random.normal(jax.random.key(i), (rows, columns)) * (2 / rows) ** 0.5
        params[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(columns)}

    def step(_, params):
        slopes = jax.grad(loss)(params, *train)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, slopes)

    return jax.jit(lambda p: jax.lax.fori_loop(0, 150, step, p))(params), train, test
