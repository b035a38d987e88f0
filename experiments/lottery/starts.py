"""Where networks begin: each as its seed says, with the weights that a branch leaves it."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from wlab.pruning import tickets
from wlab.transform import Key, Params

Init: TypeAlias = Callable[[Key], Params]


@partial(jax.jit, static_argnums=0)
def networks(init: Init, seeds: jax.Array, *, salt: jax.Array | int = 0) -> Params:
    """A network for each seed; other ones for another salt."""
    return jax.vmap(lambda seed: init(jax.random.fold_in(jax.random.key(salt), seed)))(seeds)


@partial(jax.jit, static_argnums=(0, 1))
def branch(name: str, init: Init, masks: Any, seeds: jax.Array, level: jax.Array | int) -> Params:
    """The networks of a branch at a level; compiled once for all levels.

    Args:
        name: `ticket`: the weights that stay, where they began. `reinit`: initialized anew.
            `random`: as many weights of each layer, chosen by chance, where they began.
        init: Of one network.
        masks: Of the tickets, a row a seed.
        seeds: Of the networks.
        level: Each level has a chance of its own.

    Raises:
        ValueError: If there is no such branch.
    """
    match name:
        case "ticket":
            begun = networks(init, seeds)
        case "reinit":
            begun = networks(init, seeds, salt=level)
        case "random":
            begun = networks(init, seeds)
            keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(level), seed))(seeds)
            masks = jax.vmap(tickets.shuffled)(masks, keys)
        case _:
            raise ValueError(f"{name!r} is no branch; there are ticket, reinit, random.")
    return jax.vmap(tickets.rewound)(begun, masks)


def joined(parts: list[Params]) -> Params:
    """Populations as one, in this order."""
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
