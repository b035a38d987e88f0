"""Runs the benches and prints each ratio beside its bar. It measures; it never fails on a figure.

Run     make bench
        python -m experiments.bench.run [NAME ...] [--pairs N] [--platform cuda] [--json]
        A step's memory is kept for the next one, on both sides, but with --fresh-pages
Cost    an estimated 5 minutes on two idle cores
Expect  the low end of every interval at or under its bar
Writes  runs/bench/<name>.json, or runs/bench/<platform>/<name>.json
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from experiments.bench import (
    loading,
    memory,
    optimizer_8bit,
    quantized_matmul,
    rounded_decoder,
    selection,
    shrinking,
    steps,
    traffic,
)
from experiments.bench.bench import Bench
from experiments.runner import write_text
from wlab.table import Table
from wlab.training import keep_pages

PACKAGES = ("weightlab", "jax", "jaxlib", "optax", "numpy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, runs what is named, and prints one table."""
    benches = all_benches()
    options = _parse(arguments, benches)
    jax.config.update("jax_platforms", options.platform)
    if not options.fresh_pages:
        keep_pages()
    records, directory = [], Path("runs/bench")
    if options.platform != "cpu":
        directory /= options.platform
    for bench in benches:
        if not options.names or any(map(bench.name.startswith, options.names)):
            print(f"{bench.name} …", file=sys.stderr)
            records.append(record(bench, options.pairs))
            save(records[-1], directory)
    print(json.dumps(records, indent=2) if options.json else table(records))


def all_benches() -> list[Bench]:
    """Every row of the table, at the sizes that are promised."""
    network, deep = steps.network(), steps.network(wide_layers=3)
    return [
        *steps.benches(network, deep),
        *selection.benches(),
        *traffic.benches(),
        *shrinking.benches(),
        *memory.benches(network),
        *loading.benches(),
        *quantized_matmul.benches(),
        *optimizer_8bit.benches(optimizer_8bit.network()),
        *rounded_decoder.benches(rounded_decoder.network()),
    ]


def record(bench: Bench, pairs: int) -> dict[str, Any]:
    """Runs a bench; the result stands beside the bar, the versions and the machine."""
    measured = bench.measure(pairs)
    return {
        "name": bench.name,
        "against": bench.against,
        **measured,
        "bar": bench.bar,
        "under_bar": None if bench.bar is None else measured["low"] <= bench.bar,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "machine": machine(),
    }


def save(result: dict[str, Any], directory: Path) -> None:
    """Replaces `<name>.json` in a directory, which is made if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / f"{result['name']}.json", json.dumps(result, indent=2) + "\n")


def table(records: Sequence[dict[str, Any]]) -> Table:
    """A row a bench, times in milliseconds; a bar holds if the interval's low end is under it."""
    columns = ("bench", "against", "ratio", "low", "high", "bar", "holds", "ms", "vs ms", "pairs")
    rows = tuple(
        (
            *(one[key] for key in ("name", "against", "ratio", "low", "high", "bar", "under_bar")),
            *(one[key] and 1000 * one[key] for key in ("median_s", "baseline_s")),
            one["pairs"],
        )
        for one in records
    )
    return Table(columns, rows)


def machine() -> dict[str, Any]:
    """What the times depend on; a load above 1 says that they were not taken alone."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def _parse(arguments: Sequence[str] | None, benches: Sequence[Bench]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="run benches that begin so")
    parser.add_argument("--pairs", type=int, default=100, help="timed pairs (default 100)")
    parser.add_argument("--platform", default="cpu", help="where JAX runs (default cpu)")
    parser.add_argument("--json", action="store_true", help="print the records instead of a table")
    parser.add_argument("--fresh-pages", action="store_true", help="no `training.keep_pages()`")
    options = parser.parse_args(arguments)
    known = [bench.name for bench in benches]
    for name in options.names:
        if not any(one.startswith(name) for one in known):
            parser.error(f"no bench begins with {name!r}; there are {', '.join(known)}")
    if options.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {options.pairs}")
    return options


if __name__ == "__main__":
    main()
