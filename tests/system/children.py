"""`wlab train` in processes of its own, and what they leave behind.

The processes are forked from one that has imported everything but has not started JAX: seconds
sooner than from nothing.
"""

import atexit
import json
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from same_bits import bits_of

from wlab import checkpoint, tree

TIMEOUT_S = 300  # for one run, on a busy machine
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["wlab.cli.trainer", "wlab.cli.main"])


@dataclass(frozen=True)
class Child:
    """A running `wlab train`, and the folder of what it prints."""

    process: Any
    said: Path

    def is_running(self) -> bool:
        return self.process.is_alive()

    def send(self, signum: int) -> None:
        with suppress(ProcessLookupError):  # it may have ended just before
            os.kill(self.process.pid, signum)

    def limit_files(self, nbytes: int) -> None:
        """From now on no file can grow beyond this: a full disk, but for this process only."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))

    def wait(self) -> int:
        """The exit code; minus the signal's number if one ended it."""
        self.process.join(TIMEOUT_S)
        assert self.process.exitcode is not None, "the run did not end in time"
        return self.process.exitcode

    def errors(self) -> str:
        return (self.said / "stderr").read_text()

    def result(self) -> dict[str, Any]:
        """What a run that succeeded found."""
        assert self.wait() == 0, self.errors()
        return json.loads((self.said / "stdout").read_text())


@contextmanager
def child(*flags: object, devices: int = 1, cache: Path) -> Iterator[Child]:
    """Starts a run; it is killed at the end of the block if it still runs."""
    with tempfile.TemporaryDirectory() as said:
        argv = ["train", *map(str, flags), "--json"]
        process = _FORK.Process(target=_run, args=(argv, Path(said), devices, cache))
        process.start()
        try:
            yield Child(process, Path(said))
        finally:
            process.kill()
            process.join()


def _run(argv: list[str], said: Path, devices: int, cache: Path) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_disable_most_optimizations", True)  # compiles sooner
    # JAX does it at the exit of a program of its own: nobody leaves before the others are done.
    atexit.register(jax.distributed.shutdown)
    from wlab.cli.main import main

    sys.exit(main(argv))


def trained(*flags: object, **options: Any) -> dict[str, Any]:
    """One run from start to end."""
    with child(*flags, **options) as run:
        return run.result()


def bits(out: Path, step: int | None = None) -> dict[str, bytes]:
    """Every bit of a saved state, by path; of the newest step unless one is named."""
    saved = tree.leaves(checkpoint.load(out if step is None else out / str(step)))
    return {path: bits_of(leaf) for path, leaf in saved.items()}


def weights(out: Path) -> dict[str, np.ndarray]:
    """The stored weights of the newest step."""
    saved = tree.leaves(checkpoint.load(out))
    return {path: np.asarray(leaf) for path, leaf in saved.items() if path.startswith("stored/")}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]
