"""A network without some of its channels, heads and hidden units, run as it was before."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wlab import graph
from wlab.models import (
    CLIPConfig,
    EncoderConfig,
    LlamaConfig,
    Model,
    StatefulModel,
    TransformerConfig,
    llama,
)
from wlab.pretrained.decoder_sizes import size_of, with_sizes
from wlab.pretrained.networks.network import Network, shapes, whole_tree, with_leaves
from wlab.transform import Key, Params

_READ_TOKENS = (EncoderConfig, LlamaConfig, TransformerConfig)
_LOOSE = ("1/.*",)  # the statistics that a `StatefulModel` returns


class Narrower(NamedTuple):
    """What is left of a network, before any weight is touched.

    Attributes:
        model: Pure functions of the smaller weights.
        config: The sizes; where a config cannot say them, those of the whole network.
        taken: From all leaves to the smaller ones.
    """

    model: Model | StatefulModel
    config: Any
    taken: Callable[[Params], Params]


def as_graph(network: Network, *, tokens: int = 16) -> graph.Graph:
    """What a network does with each leaf of `whole_tree`, where it is used and not trained.

    Args:
        network: One that reads images, or rows of tokens. Its weights may be `Lazy`.
        tokens: In the row that is read, at most; a shorter context is read whole.

    Raises:
        ValueError: If it reads anything else.
    """
    return graph.read(_use(network), shapes(whole_tree(network)), example(network, tokens))


def units(network: Network, *, tokens: int = 16) -> graph.Groups:
    """Which channels, heads and hidden units of a network live and die together.

    Groups have the paths of `whole_tree`. Of LLaMA's kin there are those that its sizes can say:
    hidden units; heads of keys and values with the queries that share them; and of those queries
    the first, the second, and so on, of all heads.

    Args:
        network: As of `as_graph`.
        tokens: Likewise.

    Raises:
        ValueError: If it reads neither images nor rows of tokens.
    """
    found = _grouped(as_graph(network, tokens=tokens))
    if not isinstance(network.config, LlamaConfig):
        return found
    return replace(found, groups={n: of for n, of in found.groups.items() if size_of(of)})


def example(network: Network, tokens: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype of what it reads: an image, or a row of tokens.

    Raises:
        ValueError: As `units`.
    """
    side = network.image_size
    if isinstance(network.config, _READ_TOKENS):
        return jax.ShapeDtypeStruct((1, min(tokens, network.config.context)), jnp.int32)
    if network.prepare is not None and not isinstance(network.config, CLIPConfig):
        inputs = network.prepare(np.zeros((1, side, side, 3), np.uint8))
        return jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    raise ValueError(
        f"units: what a {type(network.config).__name__} reads is neither images alone nor one row "
        "of tokens: describe its use by a function for wlab.graph.read."
    )


def shrunk(network: Network, keep: graph.Keep) -> Network:
    """The network without the units that do not stay: smaller weights, used as before.

    It computes what the whole network does with the weights of those units at zero. LLaMA's kin
    become the same network with smaller sizes, which caches, `save_hub` and `to_gguf` take; any
    other is evaluated anew at its smaller sizes, see `graph.shrink`, in training, too.

    Args:
        network: One that reads images, or rows of tokens.
        keep: Of groups of `units`, which of them stay.

    Raises:
        ValueError: If there is no such group, or the sizes of LLaMA's kin cannot say it.

    Reference:
        Fang et al. 2023, DepGraph (arXiv:2301.12900).
    """
    left = narrower(network, units(network), keep)
    smaller = left.taken(whole_tree(network))
    return with_leaves(replace(network, model=left.model, config=left.config), smaller)


def narrower(network: Network, groups: graph.Groups, keep: graph.Keep) -> Narrower:
    """The smaller model and its sizes, by the network's `units`; the weights may be shapes.

    Raises:
        ValueError: As `shrunk`.
    """
    taken = graph.shrink(groups, keep).params
    if isinstance(network.config, LlamaConfig):
        config = with_sizes(network.config, groups, keep)
        return Narrower(llama(config), config, taken)
    return Narrower(_evaluated(network, keep, taken), network.config, taken)


def verify_shrunk(network: Network, small: Network, keep: graph.Keep) -> float:
    """How far it is from the whole one with those weights at zero: max |difference| / max |result|.

    On one image of noise, or a row of tokens by chance.
    """
    less = graph.masked(units(network), keep, whole_tree(network))
    like, key = example(network, 16), jax.random.key(0)
    if jnp.issubdtype(like.dtype, jnp.integer):
        inputs = jax.random.randint(key, like.shape, 0, network.config.vocab)
    else:
        inputs = jax.random.normal(key, like.shape, like.dtype)
    wanted, found = (
        jax.jit(_use(n))(leaves, inputs)
        for n, leaves in ((network, less), (small, whole_tree(small)))
    )
    stateful = isinstance(network.model, StatefulModel)
    return graph.distance(wanted[0], found[0]) if stateful else graph.distance(wanted, found)


def _use(network: Network) -> Callable[..., Any]:
    """The network as a function of one tree of leaves and its inputs."""
    apply = network.model.apply
    if not isinstance(network.model, StatefulModel):
        return apply

    def use(leaves: Params, inputs: Any, **options: Any) -> Any:
        return apply(leaves["params"], inputs, leaves["model_state"], **options)

    return use


def _grouped(read: graph.Graph) -> graph.Groups:
    """The groups, where new statistics may get smaller."""
    returns_state = any(path.startswith("model_state/") for path in read.paths)
    return graph.groups(read, loose=_LOOSE if returns_state else ())


def _evaluated(
    network: Network, keep: graph.Keep, taken: Callable[[Params], Params]
) -> Model | StatefulModel:
    """The model, read anew for whatever it is called with, and evaluated at its smaller sizes."""
    use, whole, make = _use(network), shapes(whole_tree(network)), network.model.init

    def run(leaves: Params, *inputs: Any, **options: Any) -> Any:
        arrays = {name: x for name, x in options.items() if isinstance(x, jax.Array | np.ndarray)}
        fixed = {name: x for name, x in options.items() if name not in arrays}

        def called(leaves: Params, inputs: Any, arrays: Mapping[str, Any]) -> Any:
            return use(leaves, *inputs, **arrays, **fixed)

        found = _grouped(graph.read(called, whole, inputs, arrays))
        return graph.shrink(found, keep).fn(leaves, inputs, arrays)

    if not isinstance(network.model, StatefulModel):
        return Model(lambda key: taken(make(key)), run)

    def init(key: Key) -> tuple[Params, Any]:
        params, model_state = make(key)
        leaves = taken({"params": params, "model_state": model_state})
        return leaves["params"], leaves["model_state"]

    def apply(params: Params, inputs: Any, model_state: Any, **options: Any) -> Any:
        return run({"params": params, "model_state": model_state}, inputs, **options)

    return StatefulModel(init, apply)
