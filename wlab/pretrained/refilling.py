"""A network with the weights of another file."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab import tree
from wlab.checkpoint import Source
from wlab.pretrained.loading import load
from wlab.pretrained.name_map import NameMap, move
from wlab.pretrained.networks.network import Network, shapes, whole_tree, with_leaves


def refilled(network: Network, source: Source) -> Network:
    """The network with the weights of a file: pruned, merged, rounded or trained on.

    Args:
        network: Its own weights are not read; they may be `Lazy`.
        source: In the names of the network's own files, or in the paths of its leaves. Where the
            file has no statistics, the network's own stay.

    Raises:
        ValueError: If the file is damaged, or is of another network.
    """
    like = shapes(whole_tree(network))
    if set(source.arrays) == set(tree.paths(like)):
        return with_leaves(network, by_path(source, like))
    of_weights = with_leaves(network, like).params
    if set(source.arrays) == set(tree.paths(of_weights)):
        statistics = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), network.model_state)
        return replace(network, params=by_path(source, of_weights), model_state=statistics)
    return with_leaves(network, load(source, network.name_map, like).params)


def by_path(source: Source, like: Any) -> Any:
    """The arrays of a file that has the paths of a tree, in their own dtypes.

    Raises:
        ValueError: If one is missing, has no place or another shape.
    """
    paths = tree.paths(like)
    return load(source, NameMap(tuple(move(path, path) for path in paths)), like).params
