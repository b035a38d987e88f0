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

    Statistics that are not trained (BatchNorm's means) are no part of `params`. A model that has
    them takes `(params, inputs, model_state)` and returns `(outputs, model_state)`, and the loss
    function hands them on. Whatever draws random numbers takes a key after its inputs.

    Attributes:
        init: `key -> params`. Under `jax.eval_shape` it allocates nothing, whatever the size.
        apply: `(params, inputs, ...) -> outputs`, in the dtype that both share.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Any]


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The module that `make(rngs)` builds, as a pair of pure functions.

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

    def apply(params: Params, *inputs: Any, **options: Any) -> Any:
        return nnx.merge(graph, params)(*inputs, **options)

    return Model(init, apply)


class _Keys(nnx.Rngs):
    """Counts in Python: with nnx's own counter, GPT-3 took minutes to trace on flax 0.12.8."""

    def __init__(self, key: Key):
        super().__init__()
        self.key, self.count = key, count()

    def params(self) -> Key:
        return jax.random.fold_in(self.key, next(self.count))
