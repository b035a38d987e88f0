"""A network with its weights: all that it takes to run one that others trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from wlab.checkpoint import Source
from wlab.models import Model, StatefulModel
from wlab.pretrained.loading import Loaded, load, unread
from wlab.pretrained.name_map import NameMap
from wlab.pretrained.planning import Plan
from wlab.pretrained.text import Tokenizer
from wlab.transform import Params


@dataclass(frozen=True)
class Network:
    """A pretrained network.

    Attributes:
        model: Pure functions.
        config: Its sizes.
        params: Its weights.
        model_state: Its statistics, for a `StatefulModel`.
        tokenizer: For text; None if the files have none.
        labels: The names of its classes, in order.
        image_size: Height and width of the images it was trained on, pixels.
        prepare: From RGB images in uint8 to what its model reads.
        name_map: How its files name the weights; `export` takes it back.
        plan: What loading did.
    """

    model: Model | StatefulModel
    config: Any
    params: Params
    name_map: NameMap
    plan: Plan
    model_state: Any = ()
    tokenizer: Tokenizer | None = None
    labels: tuple[str, ...] = ()
    image_size: int = 0
    prepare: Callable[[np.ndarray], np.ndarray] | None = None


def whole_tree(network: Network) -> Params:
    """The weights, with a `StatefulModel` under `params/`, and its statistics as `model_state/`."""
    if isinstance(network.model, StatefulModel):
        return {"params": network.params, "model_state": network.model_state}
    return network.params


def shapes(leaves: Params) -> Params:
    """The same tree of shapes and dtypes, of arrays or of what is still in a file."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), leaves)


def with_leaves(network: Network, leaves: Params) -> Network:
    """The network with other leaves, in the tree that `whole_tree` gives."""
    if isinstance(network.model, StatefulModel):
        return replace(network, params=leaves["params"], model_state=leaves["model_state"])
    return replace(network, params=leaves)


def filled(
    model: Model,
    config: Any,
    source: Source,
    name_map: NameMap,
    *,
    tokenizer: Tokenizer | None = None,
    **options: Any,
) -> Network:
    """A network without statistics, its weights loaded from a file.

    Args:
        model: Pure functions.
        config: Its sizes.
        source: The file.
        name_map: Which array is which leaf.
        tokenizer: For text.
        options: As of `load`; or `lazy=True`, and the weights stay in the file, see `unread`.

    Raises:
        ValueError: As `load`.
    """
    loaded = _loaded(source, name_map, _shapes(model), **options)
    return Network(model, config, loaded.params, name_map, loaded.plan, tokenizer=tokenizer)


def filled_with_state(
    model: StatefulModel, config: Any, source: Source, name_map: NameMap, **options: Any
) -> Network:
    """A network with statistics; the map's paths begin with `params/` or `model_state/`.

    Raises:
        ValueError: As `load`.
    """
    params, model_state = _shapes(model)
    like = {"params": params, "model_state": model_state}
    loaded = _loaded(source, name_map, like, **options)
    params, model_state = loaded.params["params"], loaded.params["model_state"]
    return Network(model, config, params, name_map, loaded.plan, model_state=model_state)


def _shapes(model: Model | StatefulModel) -> Any:
    """Of what it begins with. A key made outside would be compiled, which takes 43 MB."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0)))


def _loaded(
    source: Source, name_map: NameMap, like: Any, *, lazy: bool = False, **options: Any
) -> Loaded:
    return (unread if lazy else load)(source, name_map, like, **options)
