"""Units of a network: slices of its leaves that live and die together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool

from wlab import tree
from wlab.graph.coupled.ledger import Axis
from wlab.graph.coupled.solving import Bools, Coupling, Unit, solve
from wlab.graph.coupled.value import Value
from wlab.graph.coupled.walking import Axes, Walk
from wlab.graph.reading import Graph
from wlab.table import Table

Keep: TypeAlias = Mapping[str, Bool[np.ndarray, "_"]]
"""Which units of a group stay, by the group's name. A group that is not named stays whole."""


class Member(NamedTuple):
    """An axis of a leaf, and the positions on it that are each unit's: a row a unit."""

    path: str
    axis: int
    positions: np.ndarray


@dataclass(frozen=True)
class Group:
    """Units that play the same part, such as the channels of a layer or the heads of another.

    Attributes:
        name: The path and axis of its first member, and a number if another has that name too.
        members: All that a unit is made of, in the order in which the function uses them.
        units: The classes of positions.
        made: Whether a product or a lookup makes it. Else a unit is a feature of the inputs, or
            one of several networks side by side.
    """

    name: str
    members: tuple[Member, ...]
    units: tuple[Unit, ...]
    made: bool

    @property
    def size(self) -> int:
        """The number of units."""
        return len(self.units)


@dataclass(frozen=True)
class Groups:
    """The groups of a function, and what must stay as it is.

    Attributes:
        graph: The function that was read.
        walk: The axes of every value in it.
        coupling: Which positions are one.
        leaves: The axes of each leaf, by path.
        inputs: The axes of each further operand of the function.
        constants: Those of its constants.
        loose: Patterns of paths of results that may get smaller.
        groups: What can be made smaller, by name.
    """

    graph: Graph
    walk: Walk
    coupling: Coupling
    leaves: Mapping[str, Axes]
    inputs: tuple[Axes, ...]
    constants: tuple[Axes, ...]
    loose: tuple[str, ...]
    groups: Mapping[str, Group]

    @cached_property
    def fixed(self) -> Mapping[tuple[str, int], str]:
        """The axes of leaves of which no position can go, and why."""
        frozen = self.coupling.frozen
        found = {}
        for path, axes in self.leaves.items():
            for i, axis in enumerate(axes):
                units = _units(self.coupling, axis)
                if axis and all(of <= frozen.keys() for of in units):
                    found[path, i] = frozen[min(units[0])]
        return found

    def table(self) -> Table:
        """A row a group: how many units, and of how many leaves and weights each is made."""
        shapes = {path: [prod(map(len, a)) for a in axes] for path, axes in self.leaves.items()}

        def row(group: Group) -> tuple[Any, ...]:
            weights = sum(
                m.positions.shape[1] * prod(shapes[m.path]) // shapes[m.path][m.axis]
                for m in group.members
            )
            return group.name, group.size, len({m.path for m in group.members}), weights

        rows = tuple(map(row, self.groups.values()))
        return Table(("group", "units", "leaves", "weights a unit"), rows)

    def __str__(self) -> str:
        return str(self.table())

    def stay(self, keep: Keep) -> Bools:
        """Which classes of positions stay.

        Raises:
            ValueError: If there is no such group, it has another size, or none of it stays.
        """
        dead: list[Unit] = []
        for name, kept in keep.items():
            if name not in self.groups:
                raise ValueError(f"{name!r} is no group; there are {', '.join(self.groups)}.")
            group, kept = self.groups[name], np.asarray(kept)
            if kept.shape != (group.size,) or kept.dtype != bool:
                raise ValueError(
                    f"{name!r} has {group.size} units; which of them stay must be as many bools, "
                    f"got {kept.dtype} of shape {kept.shape}."
                )
            if not kept.any():
                raise ValueError(f"{name!r} would lose all of its {group.size} units: keep one.")
            dead += [unit for unit, stays in zip(group.units, kept, strict=True) if not stays]
        return self.coupling.stay(dead)

    def kept(self, keep: Keep) -> dict[str, tuple[Bools, ...]]:
        """Which positions of each axis of each leaf stay, by path.

        Raises:
            ValueError: As `stay`.
        """
        stay = self.stay(keep)
        return {
            path: tuple(self.coupling.kept(axis, stay) for axis in axes)
            for path, axes in self.leaves.items()
        }


def groups(graph: Graph, *, loose: Sequence[str] = ()) -> Groups:
    """Finds which slices of which leaves live and die together.

    A unit is a hidden unit of a layer, a channel, a head, a part of all heads: what can be taken
    out, from the leaf that makes it to those that read it, so that what is left is a smaller
    network. Positions are followed through whatever the function does, so residual additions,
    norms, grouped convolutions and heads that share keys come out by themselves. A position stays
    where something needs it: an output, a lookup, a maximum over it, a sum over what is not zero
    when its weights are, or an operation that is not known.

    Args:
        graph: The function, as `read` gives it.
        loose: Patterns of paths of its results that may get smaller with it, such as new
            statistics of batch norms. All other results keep their shapes.

    Raises:
        ValueError: If a pattern is of no result.
    """
    walk, jaxpr = Walk(), graph.function.jaxpr
    shapes = [v.aval.shape for v in (*jaxpr.constvars, *jaxpr.invars)]
    values = [Value(tuple(walk.ledger.fresh(size) for size in shape)) for shape in shapes]
    first = len(jaxpr.constvars)
    last = first + len(graph.paths)
    for i in range(first, last):
        values[i] = Value(values[i].axes, frozenset(range(len(values[i].axes))))
    rules = [(pattern, True) for pattern in loose]
    may_shrink = tree.match([*rules, (".*", False)], tree.paths(graph.results), purpose="loose")
    results = walk.through(graph.function, values, ())
    for value, is_loose in zip(results, may_shrink.values(), strict=True):
        for axis in value.axes if not is_loose else ():
            walk.ledger.freeze(axis, "it is an axis of the result")
    axes = [value.axes for value in values]
    leaves = dict(zip(graph.paths, axes[first:last], strict=True))
    coupling = solve(walk.ledger)
    groups = _grouped(coupling, leaves, graph)
    return Groups(
        graph, walk, coupling, leaves, tuple(axes[last:]), tuple(axes[:first]), tuple(loose), groups
    )


_Place = tuple[str, int]  # a leaf's path, and one of its axes


def _grouped(coupling: Coupling, leaves: Mapping[str, Axes], graph: Graph) -> dict[str, Group]:
    """Units that are slices of the same axes of the same leaves, as many each, are a group."""
    slices: dict[Unit, dict[_Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    for path in dict.fromkeys(use.path for use in graph.uses):  # in the order of use
        for i, axis in enumerate(leaves[path]):
            for position, units in enumerate(_units(coupling, axis)):
                for unit in units:
                    if unit not in coupling.frozen:
                        slices[unit][path, i].append(position)
    alike: dict[tuple[tuple[_Place, int], ...], list[Unit]] = defaultdict(list)
    for unit in sorted(slices, key=lambda unit: next(iter(slices[unit].values()))):
        kind = tuple((place, len(positions)) for place, positions in slices[unit].items())
        alike[kind].append(unit)
    order = {
        place: i for i, place in enumerate(dict.fromkeys(p for of in slices.values() for p in of))
    }
    made = _made(graph)
    found: dict[str, Group] = {}
    for kind in sorted(alike, key=lambda kind: (order[kind[0][0]], -kind[0][1])):
        units, places = alike[kind], [place for place, _ in kind]
        members = (Member(*p, np.array([slices[unit][p] for unit in units])) for p in places)
        name = _free_name("{}:{}".format(*places[0]), found)
        found[name] = Group(name, tuple(members), tuple(units), not made.isdisjoint(places))
    return found


def _made(graph: Graph) -> frozenset[_Place]:
    """The axes of leaves that a product or a lookup hands on to its result."""
    making = (use for use in graph.uses if use.contract or use.lookup)
    return frozenset((use.path, i) for use in making for i in use.out_axes)


def _units(coupling: Coupling, axis: Axis) -> list[frozenset[Unit]]:
    """The units with any of which each position of an axis goes."""
    found = [frozenset()]
    for factor in axis:
        of_factor = [coupling.units(int(label)) for label in factor]
        found = [one | other for one in found for other in of_factor]
    return found


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    names = chain([name], (f"{name}/{i}" for i in count(2)))
    return next(free for free in names if free not in taken)
