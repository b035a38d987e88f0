"""A format as plain JSON, and back: what a file has to say so that its codes can be read.

What comes back from a file is believed only after each field has been checked.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import UnionType
from typing import Any, get_args, get_origin

from wlab.quantization.codebooks import Codebook
from wlab.quantization.floats import Floats
from wlab.quantization.formats import Format
from wlab.quantization.grids import Integers

GRIDS = {"integers": Integers, "floats": Floats, "codebook": Codebook}
_KINDS = {grid: kind for kind, grid in GRIDS.items()}


def format_fields(format: Format) -> dict[str, Any]:
    """Every field of a format and of its grid, which names its `kind`; tuples become lists."""
    grid = {"kind": _KINDS[type(format.grid)], **asdict(format.grid)}
    plain = {f.name: getattr(format, f.name) for f in fields(Format)} | {"grid": grid}
    return _listed(plain)


def format_of(stated: Mapping[str, Any]) -> Format:
    """The inverse of `format_fields`.

    Raises:
        ValueError: If the kind is unknown, a field is missing, is one too many or is not of its
            type, or if there is no such format.
    """
    _refuse_odd(stated, {f.name for f in fields(Format)}, "a format")
    grid = stated["grid"]
    kind = grid.get("kind") if isinstance(grid, Mapping) else None
    if not isinstance(kind, str) or kind not in GRIDS:
        raise ValueError(
            f"the kind of grid {str(kind)[:80]!r} is unknown; {', '.join(GRIDS)} are known. A "
            "newer wlab may know it."
        )
    named = {name: value for name, value in grid.items() if name != "kind"}
    return _built(Format, {**stated, "grid": _built(GRIDS[kind], named)})


def _built(kind: type, stated: Mapping[str, Any]) -> Any:
    types = {f.name: f.type for f in fields(kind)}
    _refuse_odd(stated, set(types), kind.__name__)
    for name, value in stated.items():
        if name != "grid" and not _fits(value, types[name]):
            raise ValueError(f"{kind.__name__}.{name} cannot be {str(value)[:80]}")
    plain = {name: tuple(v) if isinstance(v, list) else v for name, v in stated.items()}
    try:
        return kind(**plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(str(error)) from None


def _refuse_odd(stated: Any, wanted: set[str], what: str) -> None:
    found = set(stated) if isinstance(stated, Mapping) else None
    if found != wanted:
        shown = sorted(found)[:12] if found else str(stated)[:80]
        raise ValueError(f"{what} has the fields {sorted(wanted)}, found {shown}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether JSON gave what a field of this type takes."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
        return isinstance(value, list) and all(_fits(each, element) for each in value)
    return type(value) in (int, float) if kind is float else type(value) is kind


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(each) for name, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value
