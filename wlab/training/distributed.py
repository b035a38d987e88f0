"""Several processes, one program: under SLURM, GKE and by hand alike."""

import logging

import jax

_log = logging.getLogger("wlab.training")


def initialize(
    coordinator: str | None = None, *, processes: int | None = None, index: int | None = None
) -> None:
    """Joins this process to the others; call it before anything else touches JAX.

    Without arguments the cluster (SLURM, GKE, Cloud TPU, Open MPI) is detected. On one machine
    give all three.

    Args:
        coordinator: `host:port` of process 0.
        processes: How many there are.
        index: Which one this is, from 0.

    Raises:
        RuntimeError: If JAX was used before, or no cluster is found and nothing was given.
        ValueError: If only some of the three are given.
    """
    given = [value is not None for value in (coordinator, processes, index)]
    if any(given) and not all(given):
        raise ValueError("initialize: give coordinator, processes and index together, or none.")
    jax.distributed.initialize(coordinator, processes, index)
    _log.info("process %d of %d", jax.process_index(), jax.process_count())
