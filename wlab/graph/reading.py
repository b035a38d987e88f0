"""Reads from a function's jaxpr where each leaf of its parameters is used, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from wlab.graph.compat import Opened, opened
from wlab.graph.use import Use
from wlab.graph.view import of_leaf
from wlab.graph.walking import Weight, walk
from wlab.table import Table
from wlab.transform import Params
from wlab.tree import is_array, leaves


@dataclass(frozen=True)
class Graph:
    """A function for one set of shapes, and every use of its parameters.

    Attributes:
        paths: Of the leaves, in the order of the jaxpr's first operands.
        uses: In the order in which the function comes to them.
        fn: What was read.
        function: Its jaxpr and the constants of that.
        results: The tree of the results, as shapes.
        params: That of the parameters.
    """

    paths: tuple[str, ...]
    uses: tuple[Use, ...]
    fn: Callable[..., Any]
    function: Opened
    results: Any
    params: Params

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Leaves that the function does not look at."""
        used = {use.path for use in self.uses if use.primitive != "output"}
        return tuple(path for path in self.paths if path not in used)

    def of(self, path: str) -> tuple[Use, ...]:
        """The uses of one leaf.

        Raises:
            KeyError: If there is no such leaf.
        """
        if path not in self.paths:
            raise KeyError(f"{path!r} is no leaf; there are {', '.join(self.paths)}.")
        return tuple(use for use in self.uses if use.path == path)

    def table(self) -> Table:
        """A row a use: what it does to which axes of the leaf."""
        columns = ("leaf", "use", "in", "out", "batch", "lookup", "stack", "fan in", "fan out")
        return Table(columns, tuple(_row(use) for use in self.uses))

    def __str__(self) -> str:
        return str(self.table())


def read(fn: Callable[..., Any], params: Params, *inputs: Any) -> Graph:
    """Finds every use of every leaf of `params` in `fn(params, *inputs)`.

    Nothing is computed: arrays may be given as `jax.ShapeDtypeStruct`. It is seen through jit,
    custom derivatives, checkpointing, scans, loops, branches and `shard_map`; a leaf is followed
    through transposing, reshaping, slicing, casting and broadcasting. An operation that is not
    known makes a use opaque, never wrong. Holds for these shapes alone.

    Raises:
        ValueError: If the function can't be traced.
        TypeError: If a leaf of `params` is no array.
    """
    _refuse_no_arrays(params)
    try:
        closed, results = jax.make_jaxpr(fn, return_shape=True)(params, *inputs)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise ValueError(
            "read: the function can't be traced, since its Python code looks at values of arrays: "
            f"{str(error).splitlines()[0]} Pass a function that decides such things beforehand."
        ) from error
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves(params).items()}
    operands = [Weight((of_leaf(path, shape),)) for path, shape in shapes.items()]
    function = opened(closed)
    rest = [None] * (len(function.jaxpr.invars) - len(operands))
    found, uses = walk(function, [*operands, *rest], ())
    returned = [
        Use((), "output", i, view)
        for i, value in enumerate(found)
        for view in (value.views if value else ())
    ]
    avals = [v.aval for v in function.jaxpr.invars[: len(operands)]]
    read_as = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    tree = jax.tree.unflatten(jax.tree.structure(params), read_as)
    return Graph(tuple(shapes), (*uses, *returned), fn, function, results, tree)


def _refuse_no_arrays(params: Params) -> None:
    for path, leaf in leaves(params).items():
        if not is_array(leaf):
            raise TypeError(
                f"read: leaf {path!r} of the parameters is no array but a {type(leaf).__name__}. "
                "Pass the arrays alone, and let the function put the rest back, as equinox does by "
                "eqx.partition(model, eqx.is_array) and eqx.combine."
            )


def _row(use: Use) -> tuple[Any, ...]:
    if use.opaque:
        return (use.path, f"{use.primitive}, opaque", *(None,) * 7)
    axes = (use.in_axes, use.out_axes, use.batch_axes, use.lookup_axes, use.view.stack)
    fans = (use.fan_in, use.fan_out) if use.contract else (None, None)
    return (use.path, use.primitive, *(found or None for found in axes), *fans)
