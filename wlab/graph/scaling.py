"""Factors of channels that can be moved from one leaf to others without changing a function."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wlab import tree
from wlab.graph.capturing import products
from wlab.graph.distance import distance
from wlab.graph.matrices import refuse_parts
from wlab.graph.reading import Graph
from wlab.graph.scaled.factors import Clash, Factors, short, untied
from wlab.graph.scaled.program import TURN, Program, program
from wlab.graph.scaled.solving import solve
from wlab.graph.scaled.state import State
from wlab.graph.use import Use
from wlab.transform import Params


class Part(NamedTuple):
    """What a leaf is multiplied with.

    Attributes:
        path: The leaf's.
        factors: Of the leaf's rank, with size 1 along an axis of one factor: i stands for the
            factor s[i − 1], −i for its inverse, 0 for none.
    """

    path: str
    factors: Factors


@dataclass(frozen=True)
class Scaling:
    """A factor for each channel, and the leaves that can have it and its inverse.

    Attributes:
        path: The leaf whose inputs these channels are.
        producers: The leaves that are divided.
        consumers: Those that are multiplied. One that is both is here and there.
        size: How many factors can be chosen.
        turns: Of the loops around; each has as many factors for itself, one turn after the other.
    """

    path: str
    producers: tuple[Part, ...]
    consumers: tuple[Part, ...]
    size: int
    turns: int = 1

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Each leaf once."""
        return tuple({part.path: part for part in (*self.producers, *self.consumers)}.values())

    def factors(self, path: str) -> Factors:
        """Of one leaf.

        Raises:
            KeyError: If it has none.
        """
        return {part.path: part.factors for part in self.parts}[path]


class Scalings(NamedTuple):
    """What can be moved.

    Attributes:
        found: In the order in which the function comes to the leaves; leaves that have inputs in
            common are in one of them.
        refused: Why the inputs of other leaves can't have factors, by path.
    """

    found: tuple[Scaling, ...]
    refused: Mapping[str, str]


def scaling(graph: Graph, path: str) -> Scaling:
    r"""Finds which leaves can carry $1/s$ if the rows of a leaf's matrix are multiplied by $s$.

    $x W = (x \, \mathrm{diag}(1/s)) (\mathrm{diag}(s) W)$: whatever makes x is divided channel by
    channel, and all else that reads x is multiplied. Factors are followed through sums, products,
    arrangements, maxima and absolute values; they are positive, so a ReLU hands them on. An
    operation that does not is named. Channels whose entries are used together, such as those of
    key heads that several query heads share, have one factor.

    Args:
        graph: The function, as `read` gives it.
        path: Of a leaf that is multiplied with something that depends on the inputs.

    Raises:
        ValueError: If it is not, is no matrix there, or nothing can carry the inverse.
    """
    return _found(graph, program(graph), _used(graph), path)


def scalings(graph: Graph, paths: Iterable[str]) -> Scalings:
    """The scaling of each leaf's inputs, or why there is none."""
    steps, uses, wanted = program(graph), _used(graph), set(paths)
    found: list[Scaling] = []
    refused: dict[str, str] = {}
    for path in [*(path for path in uses if path in wanted), *sorted(wanted - {*uses})]:
        if any(_covers(one, path, uses) for one in found):
            continue
        try:
            found.append(_found(graph, steps, uses, path))
        except ValueError as error:
            refused[path] = str(error)
    return Scalings(tuple(found), refused)


def rows(scaling: Scaling, use: Use) -> Int[np.ndarray, "*batch inputs"]:
    """For each row of a leaf's matrix, as in `to_matrix`, which factor it has, as in `Part`."""
    order, first = _order(use)
    whole = np.broadcast_to(scaling.factors(use.path), use.view.shape).transpose(order)
    found = whole.reshape(*first, use.fan_in, use.groups, -1)[..., 0]
    return found[..., 0] if use.groups == 1 else np.moveaxis(found, -1, -2)


def rescale(params: Params, scaling: Scaling, s: Float[Array | np.ndarray, " size"]) -> Params:
    """The tree with its consumers multiplied by s, and its producers divided by it.

    Products are taken in float32, and have the dtype of the leaf.

    Raises:
        ValueError: If s has another shape, or is not positive and finite.
    """
    chosen = np.asarray(s, np.float32)
    if chosen.shape != (scaling.size,) or not ((chosen > 0) & np.isfinite(chosen)).all():
        raise ValueError(
            f"rescale: {scaling.path!r} takes {scaling.size} factors, positive and finite; got "
            f"shape {chosen.shape}, from {chosen.min(initial=np.inf)} on."
        )
    table, leaves = np.concatenate([np.ones(1, np.float32), chosen]), tree.leaves(params)
    new = {}
    for part in scaling.parts:
        factor = table[np.abs(part.factors)]
        factor = np.where(part.factors < 0, 1 / factor, factor)
        new[part.path] = _times(leaves[part.path], factor)
    return tree.replace(params, new)


@jax.jit
def _times(leaf: Array, factor: Array) -> Array:
    found = leaf.astype(jnp.float32) * jnp.broadcast_to(factor, leaf.shape)
    return found.astype(leaf.dtype)


def apart(graph: Graph, params: Params, other: Params, *inputs: Any) -> float:
    """How far the function of other parameters is: max |difference| / max |result|."""
    run = jax.jit(graph.fn)
    return distance(run(params, *inputs), run(other, *inputs))


def _used(graph: Graph) -> dict[str, Use]:
    """The first product of each leaf, in the order of the function."""
    found: dict[str, Use] = {}
    in_order = {id(use): i for i, use in enumerate(graph.uses)}
    for (path, _), use in sorted(products(graph).items(), key=lambda kv: in_order[id(kv[1])]):
        found.setdefault(path, use)
    return found


def _covers(scaling: Scaling, path: str, uses: Mapping[str, Use]) -> bool:
    """Whether every input of a leaf has a factor."""
    there = any(part.path == path for part in scaling.consumers)
    return there and bool((rows(scaling, uses[path]) > 0).all())


def _found(graph: Graph, steps: Program, uses: Mapping[str, Use], path: str) -> Scaling:
    if path not in uses:
        raise ValueError(
            f"{path!r} is in no product with anything that depends on the inputs; those that are: "
            f"{', '.join(uses)}."
        )
    use = uses[path]
    lengths = [use.view.shape[i] for i in use.view.stack]
    own, size = _numbered(use)
    turns = prod(lengths)
    around = _turns(steps, use, size, lengths)
    state = State(steps, {}, untied(size, turns), use.site, around)
    number = steps.leaves[path]
    try:
        state = solve(state.has(number, short(own)), [number])
    except Clash as clash:
        reasons = str(clash).replace("\n", "; ")
        raise ValueError(
            f"nothing can carry factors of the inputs of {path!r}: {reasons}."
        ) from None
    return _told(path, state, turns)


def _told(path: str, state: State, turns: int) -> Scaling:
    classes = np.unique(state.ties.classes[1:])
    if len(classes) == turns < len(state.ties.classes) - 1:
        raise ValueError(f"all inputs of {path!r} would have to have one factor.")
    names = {number: leaf for leaf, number in state.program.leaves.items()}
    parts = []
    for number in state.factors:
        if number in names:
            found = state.of(number)
            place = np.sign(found) * (np.searchsorted(classes, np.abs(found)) + 1)
            parts.append(Part(names[number], np.where(found == 0, 0, place)))
    order = {leaf: i for i, leaf in enumerate(names.values())}
    parts.sort(key=lambda part: order[part.path])
    producers = tuple(part for part in parts if (part.factors < 0).any())
    consumers = tuple(part for part in parts if (part.factors > 0).any())
    return Scaling(path, producers, consumers, len(classes), turns)


def _order(use: Use) -> tuple[list[int], list[int]]:
    """The axes of the leaf in the order of its matrix, and the sizes of those before the rows."""
    first = [*use.view.stack, *use.batch_axes]
    return [*first, *use.in_axes, *use.out_axes], [use.view.shape[i] for i in first]


def _numbered(use: Use) -> tuple[Factors, int]:
    """A number for each row of the leaf's matrix, in the leaf's shape, and how many there are."""
    refuse_parts(use)
    order, first = _order(use)
    shape = (*first, use.groups, use.fan_in)
    numbers = np.moveaxis(np.arange(1, prod(shape) + 1).reshape(shape), -1, -2)[..., None]
    columns = prod(use.view.shape) // prod(shape)
    spread = np.broadcast_to(numbers, (*numbers.shape[:-1], columns))
    found = spread.reshape([use.view.shape[i] for i in order])
    return found.transpose(np.argsort(order)), prod(shape)


def _turns(steps: Program, use: Use, size: int, lengths: list[int]) -> dict[tuple[Any, ...], int]:
    """For each loop around a use that runs over its leaf, the factors of one turn."""
    around = [step.site for step in steps.steps if step.name == TURN]
    sites = [s for s in dict.fromkeys(around) if use.site[: len(s)] == s]
    if len(sites) != len(lengths) or not all(use.view.loops):
        return {}
    found, left = {}, size
    for site, length in zip(sorted(sites, key=len), lengths, strict=True):
        left //= length
        found[site] = left
    return found
