"""Meshes from a string, and which of their axes carry the batch."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXES = ("data", "fsdp")  # the batch is split over those of them that a mesh has


def mesh_from(spec: str, *, devices: Sequence[Any] | None = None, explicit: bool = False) -> Mesh:
    """Builds a mesh from `"data=4,model=2"`. One size may be -1: all devices that are left.

    Args:
        spec: Comma-separated `axis=size`; axes named `data` and `fsdp` split the batch.
        devices: The devices to use; all of them by default.
        explicit: Make the axes Explicit (sharding in types) instead of Auto.

    Raises:
        ValueError: If the text does not parse or the sizes do not fit the devices.
    """
    found = list(jax.devices() if devices is None else devices)
    names, sizes = _parse(spec)
    sizes = _fill(spec, sizes, len(found))
    count = math.prod(sizes)
    if count > len(found):
        raise ValueError(f"Mesh {spec!r} needs {count} devices; there are {len(found)}.")
    kind = AxisType.Explicit if explicit else AxisType.Auto
    grid = np.asarray(found[:count]).reshape(sizes)
    return Mesh(grid, names, axis_types=(kind,) * len(names))


def data_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes over which the batch is split."""
    return tuple(name for name in DATA_AXES if name in mesh.axis_names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over the data axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(data_axes(mesh) or None))


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts a batch on the mesh; with several processes, each gives its own rows.

    Raises:
        ValueError: If the rows do not divide over the data axes.
    """
    sharding = batch_sharding(mesh)
    shards = math.prod(mesh.shape[name] for name in data_axes(mesh))

    def place(x: Any) -> jax.Array:
        rows = np.shape(x)[0] * jax.process_count()
        if rows % shards:
            raise ValueError(
                f"A batch of {rows} rows does not divide over {shards} data shards: "
                "change the batch size, or pad it and give the padding weight 0."
            )
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(place, batch)


def _parse(spec: str) -> tuple[tuple[str, ...], list[int]]:
    pairs = [part.strip().partition("=") for part in spec.split(",")]
    try:
        names, sizes = zip(*((name, int(size)) for name, _, size in pairs), strict=True)
    except ValueError:
        raise ValueError(f'Mesh {spec!r} is not of the form "data=4,model=2".') from None
    if len(set(names)) < len(names) or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"Mesh {spec!r}: axes must differ, and sizes be positive or -1.")
    return names, list(sizes)


def _fill(spec: str, sizes: list[int], devices: int) -> list[int]:
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or (-1 in sizes and devices % known):
        raise ValueError(f"Mesh {spec!r} cannot be filled with {devices} devices.")
    return [devices // known if size == -1 else size for size in sizes]
