"""`wlab plan SRC --format int4`: the bytes of a quantized file, from the headers of the plain one.

No weight is read. `wlab quantize` takes the same flags. As there, a name of `wlab weights list`
stands for the leaves of that network, and so does what `--tree` or a method that runs it is for.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wlab.checkpoint import Lazy
from wlab.cli import quantized_files, quantized_leaves, shelf, weight_files
from wlab.cli.quantized_source import BY_TEXT, leaves_of, named_network
from wlab.table import from_records

_SHOWN = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("source", help=weight_files.SOURCE)
    quantized_leaves.arguments(parser)
    parser.add_argument("--dtype", choices=weight_files.DTYPES, help="of other floats [as is]")
    shelf.places(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row a leaf, and sums."""
    quantized_leaves.refuse_misuse(args)
    arrays, rows = _leaves(args)
    plain = {name: array.plain(args.dtype) for name, array in arrays.items()}
    choices = quantized_leaves.chosen(plain, args, rows=rows)
    return {"source": args.source, **told(arrays, plain, choices)}


def text(result: dict[str, Any]) -> str:
    """A row a leaf that would be quantized, the sums, and what would be left alone."""
    return f"{table(result)}\nnothing was read but headers"


def told(
    before: Mapping[str, Lazy],
    plain: Mapping[str, Lazy],
    choices: Mapping[str, Any],
    found: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The leaves that are quantized, those left alone, the sums of each kind, and what was coded.

    Args:
        before: The leaves of the file.
        plain: Those that are quantized or written.
        choices: Of `quantized_leaves.chosen`.
        found: What was measured of a leaf, and its bytes if they are not those of its parts.
    """
    rows = [_row(name, before[name], plain[name], choices[name]) for name in plain]
    rows = [row | (found or {}).get(row["leaf"], {}) for row in rows]
    rows = [row | {"bits": 8 * row["disk"] / max(row["weights"], 1)} for row in rows]
    done = [row for row in rows if row["why"] is None]
    alone = [row for row in rows if row["why"] is not None]
    kinds = {
        "all quantized": done,
        "embeddings": [row for row in alone if row["why"] == quantized_leaves.EMBEDDING],
        "norms": [row for row in alone if row["why"] == quantized_leaves.NORM],
        "the model": rows,
    }
    totals = [_sum(kind, chosen) for kind, chosen in kinds.items() if chosen]
    again = {row["leaf"]: before[row["leaf"]].encoding for row in done}
    again = {name: encoding for name, encoding in again.items() if encoding is not None}
    return {"leaves": done, "left_alone": alone, "totals": totals, "again": again}


def table(result: Mapping[str, Any]) -> str:
    """The rows and the sums aligned, then a line for each reason to leave leaves alone."""
    records = [
        {key: value for key, value in row.items() if key != "why"}
        for row in [*result["leaves"], *result["totals"]]
    ]
    by_why: dict[str, list[str]] = {}
    for row in result["left_alone"]:
        by_why.setdefault(row["why"], []).append(row["leaf"])
    lines = [
        f"left alone, {why}: {len(names)} "
        f"({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
        for why, names in by_why.items()
    ]
    if result["again"]:
        encodings = ", ".join(sorted(set(result["again"].values())))
        lines.append(
            f"coded in the source already, errors add up: {len(result['again'])} ({encodings})"
        )
    return "\n".join([str(from_records(records)), *lines])


def _leaves(args: argparse.Namespace) -> tuple[Mapping[str, Lazy], bool]:
    """What would be quantized, by name; and whether rows are outputs, as in GGUF files."""
    shelf.refuse_nowhere(args.source)
    if args.tree or args.method in BY_TEXT or shelf.is_named(args.source):
        return leaves_of(named_network(args, lazy=True)), False
    source = quantized_files.opened(Path(args.source))
    return source.arrays, source.format == "gguf"


def _row(name: str, before: Lazy, plain: Lazy, choice: Any) -> dict[str, Any]:
    alone = isinstance(choice, str)
    nbytes = plain.nbytes if alone else quantized_leaves.planned_bytes(choice, plain.shape)
    return {
        "leaf": name,
        "shape": list(plain.shape),
        "format": None if alone else str(choice),
        "weights": plain.size,
        "bits": None,
        "before": before.nbytes,
        "device": nbytes,
        "disk": nbytes,
        **dict.fromkeys(("sqnr_db", "largest_error", "saturated", "outliers")),
        "why": choice if alone else None,
    }


def _sum(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sums = {key: sum(row[key] for row in rows) for key in ("weights", "before", "device", "disk")}
    none = dict.fromkeys(rows[0])
    bits = 8 * sums["disk"] / max(sums["weights"], 1)
    return {**none, "leaf": name, **sums, "bits": bits}
