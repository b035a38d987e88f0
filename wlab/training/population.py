"""Many networks as one program: seeds or densities, spread over the devices."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wlab.training.sharding import REPLICATED
from wlab.training.state import TrainState
from wlab.transform import Key

_AXIS = "members"


def create_population(create: Callable[[Key], TrainState], keys: Key) -> TrainState:
    """One state whose leaves have a leading member axis; the step is shared.

    Args:
        create: Makes a member's state from its key, such as a call of `create_state`.
        keys: One key a member.
    """
    states = jax.jit(jax.vmap(create))(keys)
    return states._replace(step=states.step[0])


def member(population: TrainState, index: int) -> TrainState:
    """One member's state, for evaluation or a checkpoint of its own."""
    rest = jax.tree.map(lambda x: x[index], population._replace(step=None))
    return rest._replace(step=population.step)


def population(
    run: Callable[..., tuple[TrainState, Any]],
    size: int,
    *,
    inner: Literal["map", "vmap"] | None = None,
    devices: Any = None,
) -> Callable[..., tuple[TrainState, Any]]:
    """Compiles `run(state, *shared) -> (state, out)` for a population of `size` states.

    Members are spread over the devices; a count that does not divide is padded with copies of
    the last member, whose results are dropped. Inside a device members run one after another
    ("map", best where one member fills a core or its cache) or batched ("vmap", best where a
    small network's step is over before the next kernel is launched). The step is not mapped, so
    a `lax.cond` on it stays a branch.

    Args:
        run: A step, or a scan over many steps.
        size: Members of the population.
        inner: How the members of one device are run: by default "map" on CPUs, else "vmap".
        devices: The devices to use; all by default.

    Returns:
        The compiled function of a population from `create_population`. The state is donated.

    Raises:
        ValueError: If `size < 1` or `inner` is unknown.
    """
    if size < 1 or inner not in (None, "map", "vmap"):
        raise ValueError(
            f'A population needs size >= 1 and inner "map" or "vmap"; got {size}, {inner!r}.'
        )
    found = np.asarray(jax.devices() if devices is None else devices)[:size]
    batched = inner == "vmap" or (inner is None and found[0].platform != "cpu")
    mesh = Mesh(found, (_AXIS,), axis_types=(AxisType.Auto,))
    padded = -(-size // len(found)) * len(found)
    rows = np.minimum(np.arange(padded), size - 1)

    def on_device(members: TrainState, step: Any, shared: tuple[Any, ...]) -> Any:
        def one(m: TrainState) -> Any:
            state, out = run(m._replace(step=step), *shared)
            return state._replace(step=None), state.step, out

        return jax.vmap(one)(members) if batched else jax.lax.map(one, members)

    spread = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec(_AXIS), PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(_AXIS),
        check_vma=False,
    )

    def whole(state: TrainState, *shared: Any) -> tuple[TrainState, Any]:
        members = jax.tree.map(lambda x: x[rows], state._replace(step=None))
        members, steps, out = spread(members, state.step, shared)
        members, out = jax.tree.map(lambda x: x[:size], (members, out))
        return members._replace(step=jnp.max(steps)), out

    # Members that divide stay on their devices from call to call, others are whole on each.
    lying = NamedSharding(mesh, PartitionSpec(_AXIS) if padded == size else REPLICATED)
    layout = dict.fromkeys(TrainState._fields, lying) | {"step": NamedSharding(mesh, REPLICATED)}
    layout = TrainState._make(layout.values())
    compiled = jax.jit(whole, donate_argnums=0, out_shardings=(layout, None))
    return lambda state, *shared: compiled(jax.device_put(state, layout), *shared)
