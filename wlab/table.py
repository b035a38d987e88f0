"""A table: the one form in which plans, statistics and results are handed out and printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows under named columns. Printing aligns it; `records` is its JSON form."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def records(self) -> list[dict[str, Any]]:
        """One dict a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def __str__(self) -> str:
        cells = [[_text(cell) for cell in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        numeric = [all(_is_number(row[i]) for row in self.rows) for i in range(len(widths))]
        lines = [self.columns, ["─" * width for width in widths], *cells]
        return "\n".join(_line(line, widths, numeric) for line in lines)


def from_records(records: Sequence[dict[str, Any]]) -> Table:
    """A table of dicts with the same keys; columns that are None throughout are left out."""
    columns = [name for name in records[0] if any(row[name] is not None for row in records)]
    return Table(tuple(columns), tuple(tuple(row[name] for name in columns) for row in records))


def _line(cells: Sequence[str], widths: list[int], numeric: list[bool]) -> str:
    aligned = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return "  ".join(aligned).rstrip()


def _text(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, list | tuple):
        return f"[{','.join(map(str, cell))}]"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _is_number(cell: Any) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))
