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
from wlab.pretrained.networks.network import Network, whole_tree, with_leaves


def refilled(network: Network, source: Source) -> Network:
    """The network with the weights of a file: pruned, merged, rounded or trained on.

    Args:
        network: Its own weights are not read; they may be `Lazy`.
        source: In the names of the network's own files, or in the paths of its leaves. Where the
            file has no statistics, the network's own stay.

    Raises:
        ValueError: If the file is damaged, or is of another network.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), whole_tree(network))
    if set(source.arrays) == set(tree.paths(shapes)):
        return with_leaves(network, _by_path(source, shapes))
    of_weights = with_leaves(network, shapes).params
    if set(source.arrays) == set(tree.paths(of_weights)):
        statistics = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), network.model_state)
        return replace(network, params=_by_path(source, of_weights), model_state=statistics)
    return with_leaves(network, load(source, network.name_map, shapes).params)


def _by_path(source: Source, like: Any) -> Any:
    paths = tree.paths(like)
    return load(source, NameMap(tuple(move(path, path) for path in paths)), like).params
