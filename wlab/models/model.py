"""A model is two pure functions over a plain nested dict of arrays."""

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import jax
from flax import nnx

from wlab.transform import Key, Params
from wlab.tree import paths


class Model(NamedTuple):
    """What a train step needs to know of a network.

    A model with statistics that are not trained, as BatchNorm's means, is a `StatefulModel`.
    Whatever draws random numbers takes a key after its inputs.

    Attributes:
        init: `key -> params`. Under `jax.eval_shape` it allocates nothing, whatever the size.
        apply: `(params, inputs, ...) -> outputs`, in the dtype that both share.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Any]


class StatefulModel(NamedTuple):
    """A network with statistics that are not trained: no part of `params`, carried beside them.

    Attributes:
        init: `key -> (params, model_state)`.
        apply: `(params, inputs, model_state, train=False) -> (outputs, model_state)`. A loss
            function hands the new `model_state` on.
    """

    init: Callable[[Key], tuple[Params, Any]]
    apply: Callable[..., Any]


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The module that `make(rngs)` builds, as a pair of pure functions.

    `apply(params, *inputs, method="name")` calls another method of the module.

    Example:
        `init, apply = from_nnx(lambda rngs: nnx.Linear(784, 10, rngs=rngs))`

    Raises:
        ValueError: If the module holds variables that are not parameters.
    """
    abstract = nnx.eval_shape(lambda: make(_Keys(jax.random.key(0))))
    graph, _, rest = nnx.split(abstract, nnx.Param, ...)
    if others := paths(nnx.to_pure_dict(rest)):
        raise ValueError(
            f"from_nnx: {others} are not parameters. Split them off with "
            "nnx.split(module, nnx.Param, ...) and carry them as model_state."
        )

    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.state(make(_Keys(key)), nnx.Param))

    def apply(params: Params, *inputs: Any, method: str = "__call__", **options: Any) -> Any:
        return getattr(nnx.merge(graph, params), method)(*inputs, **options)

    return Model(init, apply)


def stateful_from_nnx(make: Callable[[nnx.Rngs, bool], nnx.Module]) -> StatefulModel:
    """The module that `make(rngs, train)` builds, its batch statistics apart from its parameters.

    `apply` takes `train=True` where the statistics shall be the batch's, and `method=` for another
    method than `__call__`.

    Raises:
        ValueError: If the module holds variables that are neither.
    """

    def split(train: bool) -> nnx.GraphDef:
        abstract = nnx.eval_shape(lambda: make(_Keys(jax.random.key(0)), train))
        graph, _, _, rest = nnx.split(abstract, nnx.Param, nnx.BatchStat, ...)
        if others := paths(nnx.to_pure_dict(rest)):
            raise ValueError(f"stateful_from_nnx: {others} are neither parameters nor statistics.")
        return graph

    graphs = {train: split(train) for train in (False, True)}

    def init(key: Key) -> tuple[Params, Any]:
        _, params, statistics = nnx.split(make(_Keys(key), True), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)

    def apply(
        params: Params,
        inputs: Any,
        model_state: Any,
        *,
        train: bool = False,
        method: str = "__call__",
        **options: Any,
    ) -> tuple[Any, Any]:
        module = nnx.merge(graphs[train], params, model_state)
        outputs = getattr(module, method)(inputs, **options)
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)) if train else model_state

    return StatefulModel(init, apply)


class _Keys(nnx.Rngs):
    """Counts in Python: with nnx's own counter, GPT-3 took minutes to trace on flax 0.12.8."""

    def __init__(self, key: Key):
        super().__init__()
        self.key, self.count = key, count()

    def params(self) -> Key:
        return jax.random.fold_in(self.key, next(self.count))
