"""Reading orbax checkpoints that others wrote, whatever their devices were."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1

from wlab.checkpoint.header import reason
from wlab.checkpoint.nested import nest
from wlab.checkpoint.steps import PathLike, latest, step_path
from wlab.tree import leaves


def load(path: PathLike) -> dict[str, Any]:
    """The arrays of an orbax checkpoint as nested dicts on the first device.

    Reads what `v1.save`, `StandardCheckpointer`, `CheckpointManager` and `wlab` write; of a
    directory of steps, the newest. Sequences become dicts keyed `0`, `1`, …

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is no orbax checkpoint, or is damaged.
    """
    directory = Path(path).absolute()
    if not directory.is_dir():
        raise FileNotFoundError(f"No checkpoint directory at {directory}.")
    newest = latest(directory)
    if newest is not None:
        directory = step_path(directory, newest)
    try:
        saved = v1.metadata(str(directory)).metadata
        found = v1.load(str(directory), jax.tree.map(_on_first_device, saved))
    except Exception as error:  # orbax and tensorstore raise many kinds for a broken file
        raise ValueError(
            f"{directory} cannot be read as an orbax checkpoint: {reason(error)}"
        ) from error
    return nest(leaves(found))


def _on_first_device(leaf: Any) -> Any:
    if not hasattr(leaf, "shape"):
        return leaf
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
