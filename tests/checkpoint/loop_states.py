"""A state like a training loop's, with every kind of leaf and container that must survive."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec


class LoopState(NamedTuple):
    step: jax.Array
    stored: Any
    opt: Any
    weights: Any
    key: jax.Array


def loop_state(seed: int = 0) -> LoopState:
    keys = jax.random.split(jax.random.key(seed), 3)
    stored = {
        "dense": {
            "kernel": jax.random.normal(keys[0], (16, 8)),
            "bias": jax.random.normal(keys[1], (8,), jnp.bfloat16),
        },
        "layers": [jnp.arange(8.0), None],
        "a.b": jnp.full(3, seed, jnp.float32),
        "a": {"b": jnp.full(3, -1.0)},
    }
    mask = {"dense": {"kernel": True, "bias": False}, "layers": [True, None], "a.b": True}
    mask["a"] = {"b": False}
    tx = optax.named_chain(
        ("adam", optax.scale_by_adam()),
        ("decay", optax.masked(optax.trace(0.9), mask)),
    )
    packed = jax.random.bits(keys[2], (16, 1), jnp.uint8)
    weights = {"prune": {"masks": {"dense": {"kernel": packed}}}, "quant": (jnp.int8([-3, 4]), ())}
    weights["live"] = jnp.array([True, False, True])
    return LoopState(jnp.int32(seed), stored, tx.init(stored), weights, jax.random.key(seed + 7))


def placed(state: Any, devices: int, *, axis_types: Any = None) -> Any:
    """Leaves whose first axis divides are split over the devices, the others replicated."""
    options = {} if axis_types is None else {"axis_types": (axis_types,)}
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], **options)

    def place(leaf: jax.Array) -> jax.Array:
        splits = leaf.ndim and leaf.shape[0] % devices == 0
        spec = PartitionSpec("data") if splits else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
