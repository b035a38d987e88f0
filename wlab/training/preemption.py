"""A polite end: SIGTERM is remembered, and the loop saves at its next step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL: run again, it will go on from the saved step


class Preempted(SystemExit):
    """The run was asked to stop, has saved its state and can be started again."""

    def __init__(self, step: int) -> None:
        super().__init__(EXIT_CODE)
        self.step = step


@contextmanager
def catch_sigterm() -> Iterator[Callable[[int], bool]]:
    """While entered, SIGTERM does not end the process; yields `stop_now(step)`.

    Ask once a step in every process: under `jax.distributed` all stop at the same step. Outside
    the main thread Python cannot catch signals, and the answer stays False.
    """
    if jax.process_count() > 1:
        # A handler of ours would silence JAX's, which hears the signal for all processes.
        yield multihost_utils.reached_preemption_sync_point
        return
    raised = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: raised.set())
    try:
        yield lambda step: raised.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)
