"""A name map says, as data, which arrays of a file are which leaves of a tree.

One description serves both directions: `load` takes it forward, `export` back.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from wlab.pretrained.ops import Op, Transpose


@dataclass(frozen=True)
class Move:
    """Some arrays of a file, the leaves that they become, and how.

    Attributes:
        theirs: Names in the file.
        ours: Paths in the tree.
        ops: Steps from theirs to ours.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    ops: tuple[Op, ...] = ()

    @property
    def transposes(self) -> bool:
        """Whether a transposition is among the steps."""
        return any(isinstance(op, Transpose) for op in self.ops)


@dataclass(frozen=True)
class NameMap:
    """All moves of a network.

    Attributes:
        moves: Every array and every leaf stands in one move at most.
        constants: Arrays that files carry although they can be computed, as position numbers.
            A file may lack them; one that has them must have these values.
        ties: A second name in the file → the name whose array it repeats. A file may lack
            them; one that has them must have equal arrays.
        needless: Regexes of names that a file may have and no network needs, as counters.
        verified: How the map is known to be right where shapes cannot tell, as for square kernels:
            a test that compares outputs. Empty if nobody has looked.
    """

    moves: tuple[Move, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    needless: tuple[str, ...] = ()
    verified: str = ""

    def __post_init__(self) -> None:
        for kind, names in (
            ("array", [*(n for m in self.moves for n in m.theirs), *self.constants, *self.ties]),
            ("leaf", [n for m in self.moves for n in m.ours]),
        ):
            name, count = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
            if count > 1:
                raise ValueError(f"NameMap: {kind} {name!r} stands in {count} places; keep one.")

    @property
    def theirs(self) -> list[str]:
        """The names that a file must have, in the order of the moves."""
        return [name for move in self.moves for name in move.theirs]

    @property
    def ours(self) -> list[str]:
        """The paths that a tree must have, in the order of the moves."""
        return [path for move in self.moves for path in move.ours]


def move(theirs: str | Iterable[str], ours: str | Iterable[str], *ops: Op) -> Move:
    """A move, spelled shortly: one name or several on either side."""
    return Move(_names(theirs), _names(ours), ops)


def for_layers(count: int, moves: Iterable[Move]) -> Iterator[Move]:
    """The moves of every layer: `{i}` in a name becomes 0, 1, …, count - 1."""
    moves = list(moves)
    for i in range(count):
        for one in moves:
            theirs, ours = (tuple(n.format(i=i) for n in side) for side in (one.theirs, one.ours))
            yield Move(theirs, ours, one.ops)


def prefixed(name_map: NameMap, prefix: str) -> NameMap:
    """The same map for files whose names all begin with `prefix`, as `bert.`."""
    return replace(
        name_map,
        moves=tuple(
            replace(move, theirs=tuple(prefix + name for name in move.theirs))
            for move in name_map.moves
        ),
        constants={prefix + name: array for name, array in name_map.constants.items()},
        ties={prefix + a: prefix + b for a, b in name_map.ties.items()},
        needless=tuple(re.escape(prefix) + pattern for pattern in name_map.needless),
    )


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
