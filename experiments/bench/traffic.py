"""Bytes that a mask update gathers from other devices, counted in the compiled program.

Run: python -m experiments.bench.traffic SIDE AXIS,AXIS
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.bench.bench import Bench, counted
from wlab import pruning

ROOT = Path(__file__).parents[2]
FLAGS = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_GATHER = re.compile(r"= (.*?) all-gather(-start)?\(")
_ARRAY = re.compile(r"(pred|[a-z]+(\d+))\[([\d,]*)\]")


def benches(side: int = 2048) -> list[Bench]:
    """A row for each way to split a square matrix over 2 × 4 devices."""
    return [
        Bench("gathered-both-axes", "rows + columns", 1.0, lambda pairs: elsewhere(side, "x,y")),
        Bench("gathered-columns", "rows + columns", 1.0, lambda pairs: elsewhere(side, ",y")),
    ]


def elsewhere(side: int, axes: str) -> dict[str, Any]:
    """`count` in a fresh process: the number of devices is fixed when JAX starts."""
    command = [sys.executable, "-m", "experiments.bench.traffic", str(side), axes]
    done = subprocess.run(
        command, env=os.environ | FLAGS, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def count(side: int, axes: str) -> dict[str, Any]:
    """What a device receives in one update, loops counted as often as they run.

    The bound is a 32-bit integer for each row and each column.

    Args:
        side: Rows and columns of the only weight.
        axes: The mesh axes of its rows and columns, such as "x,y"; empty for none.
    """
    found = list(gathered(update_text(side, axes)))
    total = sum(size * times for size, times in found)
    largest = max((size for size, _ in found), default=0)
    return counted(total, 4 * 2 * side, bytes=total, largest=largest, operations=len(found))


def update_text(side: int, axes: str) -> str:
    """The compiled mask update of a square matrix on a mesh of 2 × 4 devices."""
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(*(name or None for name in axes.split(","))))
    weights = pruning.magnitude(0.1, [(".*", True)])
    params = {"kernel": jax.ShapeDtypeStruct((side, side), jnp.float32)}
    stored, state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(weights.init, params, jax.random.key(0)),
    )
    update: Any = weights.update
    return jax.jit(update).lower(stored, None, state, jnp.int32(0)).compile().as_text() or ""


def gathered(text: str) -> Iterator[tuple[int, int]]:
    """The bytes of each all-gather's result and how often it runs, from a compiled program.

    Raises:
        ValueError: If one stands in a loop whose length the compiler does not know.
    """
    callers: dict[str, list[tuple[str, int | None]]] = {}
    gathers, inside = [], ""
    for line in text.splitlines():
        if opening := _COMPUTATION.match(line):
            inside = opening[1]
        for names in _CALLED.findall(line):
            for name in re.findall(r"[\w.\-]+", names):
                callers.setdefault(name, []).append((inside, _times(line)))
        if gather := _GATHER.search(line):
            gathers.append((_bytes(gather[1]), inside))

    def runs(computation: str) -> int:
        total = 0
        for caller, times in callers.get(computation, []):
            if times is None:
                raise ValueError(f"{computation!r} gathers in a loop of unknown length.")
            total += times * runs(caller)
        return total if computation in callers else 1

    return ((size, runs(computation)) for size, computation in gathers)


def _times(line: str) -> int | None:
    """How often an instruction runs what it calls; None if the compiler does not know."""
    trips = _TRIPS.search(line)
    if trips:
        return int(trips[1])
    return None if " while(" in line else 1


def _bytes(shape: str) -> int:
    """The bytes of the last array in a shape: of an asynchronous gather, the result."""
    _, bits, dims = _ARRAY.findall(shape)[-1]
    return math.prod(int(n) for n in dims.split(",") if n) * int(bits or 8) // 8


if __name__ == "__main__":
    print(json.dumps(count(int(sys.argv[1]), sys.argv[2])))
