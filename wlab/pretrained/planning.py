"""What loading a file into a tree would do, leaf by leaf, found out from headers alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import jax

from wlab import tree
from wlab.pretrained.name_map import Move, NameMap
from wlab.pretrained.ops import forward
from wlab.table import Table, from_records

Policy: TypeAlias = Literal["error", "init", "zero", "slice"]
Status: TypeAlias = Literal["loaded", "missing", "mismatched", "unexpected", "constant", "ignored"]

_EACH_IS_AN_ERROR: tree.Rules[Policy] = ((".*", "error"),)
_SHOWN = 8


@runtime_checkable
class Header(Protocol):
    """What a plan needs to know of an array that it does not hold."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> str:
        """The name of its dtype."""
        ...


@dataclass(frozen=True)
class Line:
    """What happens to one leaf, or to an array that becomes none.

    Attributes:
        path: The leaf; empty for an array without one.
        theirs: The arrays in the file, joined by `+`.
        status: `loaded`, `constant` and `ignored` are well; `missing`, `mismatched` and
            `unexpected` are not.
        found: What the file gives, as `float32[384,384]`.
        wanted: The shape that the tree has.
        policy: What is done where it is not well.
        square: Whether the leaf is transposed although its shape is the same both ways.
    """

    path: str
    theirs: str
    status: Status
    found: str = ""
    wanted: str = ""
    policy: Policy = "error"
    square: bool = False

    @property
    def fatal(self) -> bool:
        """Whether loading has to stop here."""
        return self.status in ("missing", "mismatched", "unexpected") and self.policy == "error"


@dataclass(frozen=True)
class Plan:
    """One line a leaf, and one an array that becomes none. `str()` gives a table."""

    lines: tuple[Line, ...]

    @property
    def table(self) -> Table:
        """The lines, the `square` ones marked; columns in which nothing stands are left out."""
        return from_records([_row(line) for line in self.lines])

    def count(self, status: Status) -> int:
        """How many lines have this status."""
        return sum(line.status == status for line in self.lines)

    def summary(self) -> str:
        """As `103 loaded, 1 constant, 24 of them square`."""
        kinds: dict[Status, None] = dict.fromkeys(line.status for line in self.lines)
        text = ", ".join(f"{self.count(kind)} {kind}" for kind in kinds)
        square = sum(line.square for line in self.lines)
        return f"{text}, {square} of them square" if square else text

    def refuse_faults(self, source: str) -> None:
        """Raises if a line is fatal.

        Raises:
            ValueError: Naming the leaves, what was found, and the remedy.
        """
        fatal = [line for line in self.lines if line.fatal]
        if fatal:
            shown = "; ".join(_fault(line) for line in fatal[:_SHOWN])
            more = f"; and {len(fatal) - _SHOWN} more" if len(fatal) > _SHOWN else ""
            raise ValueError(
                f"{source} does not fit: {shown}{more}. Mend the map, or give these leaves a "
                "policy (init, zero, slice) and such arrays an `ignore` pattern."
            )

    def __str__(self) -> str:
        return f"{self.table}\n{self.summary()}"


def plan(
    arrays: Mapping[str, Header],
    name_map: NameMap,
    like: Any,
    *,
    policies: tree.Rules[Policy] = _EACH_IS_AN_ERROR,
    ignore: Sequence[str] = (),
) -> Plan:
    """Compares a file's headers with a tree, through a map. Nothing is read.

    Args:
        arrays: The file's arrays by name.
        name_map: Which are which.
        like: The tree to fill; its leaves may be shapes.
        policies: `(regex, policy)` for the leaves that the file cannot give: `error`; `init`
            keeps the leaf of `like`; `zero`; `slice` takes the first entries of a larger array.
        ignore: Regexes of names in the file that are left alone.

    Raises:
        ValueError: If a rule or a pattern of `ignore` matches nothing.
    """
    wanted = tree.leaves(like)
    policy = tree.match(policies, list(wanted), purpose="policies")
    made, verified = _made(name_map.moves, arrays), bool(name_map.verified)
    lines = [
        line
        for i, move in enumerate(name_map.moves)
        for line in _lines_of(move, arrays, made.get(i, []), wanted, policy, verified=verified)
    ]
    moved = set(name_map.ours)
    lines += [
        Line(path, "", "missing", wanted=_shape(leaf), policy=policy[path])
        for path, leaf in wanted.items()
        if path not in moved
    ]
    return Plan((*lines, *_others(arrays, name_map, ignore)))


def _made(moves: Sequence[Move], arrays: Mapping[str, Header]) -> dict[int, list[Any] | str]:
    """What each move makes of its arrays, as shapes, or why it cannot; traced in one go."""
    # Of any dtype: only the shapes count.
    inputs = {
        i: [jax.ShapeDtypeStruct(arrays[name].shape, bool) for name in move.theirs]
        for i, move in enumerate(moves)
        if all(name in arrays for name in move.theirs)
    }
    failed: dict[int, str] = {}

    def trace(inputs: dict[int, list[Any]]) -> dict[int, list[Any]]:
        found = {}
        for i, given in inputs.items():
            try:
                found[i] = forward(moves[i].ops, given)
            except (ValueError, TypeError) as error:
                failed[i] = str(error)
        return found

    return jax.eval_shape(trace, inputs) | failed


def _lines_of(
    move: Move,
    arrays: Mapping[str, Header],
    found: list[Any] | str,
    wanted: Mapping[str, Any],
    policy: Mapping[str, Policy],
    *,
    verified: bool,
) -> list[Line]:
    theirs = " + ".join(move.theirs)
    strangers = [path for path in move.ours if path not in wanted]
    if strangers:
        return [Line(path, theirs, "unexpected", "no such leaf") for path in strangers]
    shapes = {path: _shape(wanted[path]) for path in move.ours}
    absent = [name for name in move.theirs if name not in arrays]
    if absent:
        return [
            Line(path, theirs, "missing", f"no {absent[0]}", shapes[path], policy[path])
            for path in move.ours
        ]
    if isinstance(found, str):
        return [
            Line(path, theirs, "mismatched", found, shapes[path], policy[path])
            for path in move.ours
        ]
    dtype = arrays[move.theirs[0]].dtype
    return [
        Line(
            path,
            theirs,
            "loaded" if array.shape == wanted[path].shape else "mismatched",
            f"{dtype}{_shape(array)}",
            shapes[path],
            policy[path],
            square=not verified and move.transposes and _is_square(array.shape),
        )
        for path, array in zip(move.ours, found, strict=True)
    ]


def _others(arrays: Mapping[str, Header], name_map: NameMap, ignore: Sequence[str]) -> list[Line]:
    """The arrays that become no leaf."""
    known = set(name_map.theirs)
    rest = [name for name in arrays if name not in known]
    for pattern in ignore:
        if not any(re.fullmatch(pattern, name) for name in rest):
            raise ValueError(
                f"ignore: {pattern!r} matches no array without a leaf; there are {rest[:_SHOWN]}."
            )
    lines = []
    for name in rest:
        ignored = any(re.fullmatch(pattern, name) for pattern in (*ignore, *name_map.needless))
        constant = name in name_map.constants or name in name_map.ties
        status: Status = "ignored" if ignored else "constant" if constant else "unexpected"
        lines.append(Line("", name, status, f"{arrays[name].dtype}{_shape(arrays[name])}"))
    return lines


def _is_square(shape: tuple[int, ...]) -> bool:
    """Whether some axes could be exchanged and the shape stay the same."""
    long = [n for n in shape if n > 1]
    return len(set(long)) < len(long)


def _shape(leaf: Any) -> str:
    return f"[{','.join(map(str, leaf.shape))}]"


def _row(line: Line) -> dict[str, str | None]:
    well = line.status in ("loaded", "constant", "ignored")
    return {
        "leaf": line.path,
        "array": line.theirs,
        "status": line.status,
        "found": line.found,
        "wanted": line.wanted,
        "policy": None if well else line.policy,
        "note": "square: no shape tells its transpose" if line.square else None,
    }


def _fault(line: Line) -> str:
    if line.status == "unexpected" and not line.path:
        return f"array {line.theirs!r} ({line.found}) has no place in the map"
    if line.status == "unexpected":
        return f"the map makes leaf {line.path!r}, which the tree lacks"
    if line.status == "missing":
        return f"leaf {line.path!r} {line.wanted} is missing ({line.found or 'no move makes it'})"
    return f"leaf {line.path!r} is {line.found}, {line.wanted} is wanted"
