"""A reader without a position: what batch `step` holds follows from (seed, step) alone.

A run that resumes at step 1000, on any number of processes, reads what it would have read.
Epochs follow each other without a gap; a batch may hold the end of one and the start of the
next, so every sample is read exactly once an epoch whatever the batch size.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from wlab.data.arrays import Arrays, size, take
from wlab.data.shuffle import shuffled

WEIGHT = "weight"
_STEPS_AT_ONCE = 64


def batch_indices(step: Any, *, size: int, batch: int, seed: Any) -> Any:
    """The samples in the global batch `step`, as int32 indices.

    Sample n of the run (n = step · batch + row) is sample n mod size of epoch ⌊n / size⌋.
    The same in numpy (for ints) and in JAX (for arrays, traced or not).

    Args:
        step: From 0.
        size: The number of samples, below 2**31.
        batch: Samples in the global batch.
        seed: From 0 to 2**32 - 1.

    Raises:
        ValueError: If there are fewer samples than a batch, or a number is out of range.
    """
    on_host = isinstance(step, int | np.integer) and isinstance(seed, int | np.integer)
    if on_host and (step < 0 or not 0 <= seed < 2**32):
        raise ValueError(f"step must be at least 0 and seed in [0, 2**32), got {step}, {seed}.")
    if not 1 <= batch <= size < 2**31:
        raise ValueError(
            f"{size} samples do not make a batch of {batch}: a batch holds at least 1 sample "
            "and at most all of them (fewer than 2**31). Lower the batch size."
        )
    # Every `period` steps, `epochs` epochs end together: the remainder is all that is large.
    period, epochs = size // math.gcd(size, batch), batch // math.gcd(size, batch)
    xp, wide = (np, np.int64) if on_host else _jax_numpy(period * batch)
    step = xp.asarray(step).astype(wide)
    place = step % period * batch + xp.arange(batch, dtype=wide)
    epoch = step // period * epochs + place // size
    position, epoch = (x.astype(xp.uint32) for x in (place % size, epoch))
    seed = xp.asarray(seed).astype(xp.uint32)
    return shuffled(position, epoch, size=size, seed=seed).astype(xp.int32)


def reader(
    arrays: Arrays, batch: int, *, seed: int, process_index: int = 0, process_count: int = 1
) -> Callable[[int], dict[str, np.ndarray]]:
    """A function of the step that gives this process's rows of the global batch.

    The batch is cut into `process_count` contiguous parts, in the order of the processes.

    Args:
        arrays: The whole dataset, on every process; memory-mapped arrays are read by row.
        batch: Samples in the global batch.
        seed: Chooses the order of every epoch.
        process_index: `jax.process_index()`.
        process_count: `jax.process_count()`.

    Raises:
        ValueError: If there are fewer samples than a batch, or the processes do not divide it.
    """
    total, rows = size(arrays), _rows(batch, process_index, process_count)
    batch_indices(0, size=total, batch=batch, seed=seed)  # refuses now rather than at step 0

    # Indices are made for many steps at a time: the same numbers, at a tenth of the cost.
    steps = min(_STEPS_AT_ONCE, total // batch)

    @lru_cache(maxsize=2)
    def indices(block: int) -> np.ndarray:
        together = batch_indices(block, size=total, batch=steps * batch, seed=seed)
        return together.reshape(steps, batch)

    def read(step: int) -> dict[str, np.ndarray]:
        return take(arrays, indices(step // steps)[step % steps, rows])

    return read


def padded_batches(
    arrays: Arrays, batch: int, *, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Every sample once and in order, in batches of one shape, for evaluation.

    Each batch has an array `weight`: 1 for a sample, 0 for the rows that fill up the last
    batch (copies of the last sample). So the weights of all batches sum to the number of samples.

    Args:
        arrays: The dataset.
        batch: Samples in the global batch; may exceed the dataset.
        process_index: As in `reader`.
        process_count: As in `reader`.

    Raises:
        ValueError: If the processes do not divide the batch, or `weight` is taken.
    """
    total, rows = size(arrays), _rows(batch, process_index, process_count)
    if WEIGHT in arrays:
        raise ValueError(f"arrays already hold {WEIGHT!r}; rename it, the padding is told by it.")
    for start in range(0, total, batch):
        places = np.arange(start, start + batch)[rows]
        weight = (places < total).astype(np.float32)
        yield take(arrays, np.minimum(places, total - 1)) | {WEIGHT: weight}


def _rows(batch: int, process_index: int, process_count: int) -> slice:
    if not 0 <= process_index < process_count or batch < 1 or batch % process_count:
        raise ValueError(
            f"process {process_index} of {process_count} has no share of a batch of {batch}: "
            "the index must be below the count, and the count must divide the batch."
        )
    share = batch // process_count
    return slice(process_index * share, (process_index + 1) * share)


def _jax_numpy(cycle: int) -> tuple[Any, Any]:
    import jax.numpy as jnp

    if cycle >= 2**32:
        raise ValueError(
            f"batches and epochs meet only every {cycle:,} samples, too many for 32-bit "
            "arithmetic in JAX. Choose a batch size that shares factors with the dataset's size."
        )
    return jnp, jnp.uint32
