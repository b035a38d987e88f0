"""Places and compiles a pure step: the same weights and masks in each of three modes."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wlab import tree
from wlab.training.gradient import Batch, Metrics
from wlab.training.mesh import data_axes, place_batch
from wlab.training.state import TrainState
from wlab.training.step import Step

Mode: TypeAlias = Literal["jit", "shard_map", "pmap"]
Compiled: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def compile_step(
    step: Step, state: TrainState, *, mode: Mode = "jit", mesh: Mesh | None = None
) -> Compiled:
    """Compiles a step for the devices `state` lies on; the state is donated.

    Args:
        step: From `make_step`.
        state: A placed state (or its abstract form with shardings), for its layout only.
        mode: `"jit"`: one global program, any sharding. `"shard_map"`: the data axes are split
            by hand and summed once, other axes stay with the compiler. `"pmap"`: data-parallel
            only, every device holds the whole state.
        mesh: The mesh of the state; None for one device.

    Returns:
        `(state, batch) -> (state, metrics)`; batches may be numpy arrays.

    Raises:
        ValueError: If the mode is unknown or does not fit the mesh or the state's shardings.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}.")
    if mesh is None:
        if mode != "jit":
            raise ValueError(f'mode={mode!r} splits the batch over a mesh: pass mesh=, or "jit".')
        return jax.jit(step, donate_argnums=0)
    build = {"jit": _jit, "shard_map": _shard_map, "pmap": _pmap}[mode]
    compiled = build(step, state, mesh)
    return lambda state, batch: compiled(state, place_batch(batch, mesh))


def _jit(step: Step, state: TrainState, mesh: Mesh) -> Compiled:
    del mesh
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def _shard_map(step: Step, state: TrainState, mesh: Mesh) -> Compiled:
    axes = _data_axes(mesh, "shard_map")
    _refuse_sharded(state, axes, "shard_map", 'use mode="jit" for weights split over them')
    mapped = jax.shard_map(
        partial(step, axis=axes),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(axes)),
        out_specs=(PartitionSpec(), PartitionSpec()),
        axis_names=set(axes),
    )
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(mapped, donate_argnums=0, out_shardings=(shardings, None))


def _pmap(step: Step, state: TrainState, mesh: Mesh) -> Compiled:
    axes = _data_axes(mesh, "pmap")
    other = [name for name in mesh.axis_names if name not in axes and mesh.shape[name] > 1]
    if other:
        raise ValueError(
            f'mode="pmap" is data-parallel only, but the mesh has {other}: '
            'use mode="jit" or "shard_map".'
        )
    _refuse_sharded(state, mesh.axis_names, "pmap", 'use mode="jit" for split weights')
    devices = list(mesh.devices.flat)
    mapped = jax.pmap(
        partial(step, axis="data"),
        axis_name="data",
        devices=devices,
        in_axes=(None, 0),
        out_axes=None,
    )

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rows = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)
        return mapped(state, rows)

    return run


def _data_axes(mesh: Mesh, mode: str) -> tuple[str, ...]:
    axes = data_axes(mesh)
    if not axes:
        raise ValueError(f'mode={mode!r} needs a mesh axis named "data" or "fsdp", got {mesh}.')
    return axes


def _refuse_sharded(state: TrainState, axes: Any, mode: str, remedy: str) -> None:
    for path, leaf in tree.leaves(state).items():
        sharding = getattr(leaf, "sharding", None)
        spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
        used = {n for names in spec for n in (names if isinstance(names, tuple) else (names,))}
        if used & set(axes):
            raise ValueError(
                f"mode={mode!r} keeps leaf {path!r} whole on the axes {tuple(axes)}, but it is "
                f"split as {spec}: {remedy}."
            )
