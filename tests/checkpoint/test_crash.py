"""A kill at any moment, or a full disk, costs at most the step that was being saved."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.checkpoint import latest, restore, steps

# Each step holds one number everywhere: any mixture of two steps shows.
LOOP = """
    import sys
    import jax.numpy as jnp
    from wlab.checkpoint import Saver, latest

    root, size = sys.argv[1], int(sys.argv[2])
    with Saver(root, keep=2) as saver:
        step = latest(root) or 0
        while True:
            step += 1
            saver.save(step, {"w": jnp.full((4, size), step, jnp.int32), "step": jnp.int32(step)})
            print(step, flush=True)
"""
FULL_DISK = """
    import json, resource, sys
    import jax, jax.numpy as jnp
    from wlab.checkpoint import Saver, restore, steps

    root = sys.argv[1]
    with Saver(root) as saver:
        saver.save(1, {"w": jax.random.bits(jax.random.key(1), (1 << 20,))})
        saver.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, resource.RLIM_INFINITY))
        message = ""
        try:
            saver.save(2, {"w": jax.random.bits(jax.random.key(2), (1 << 20,))})
            saver.wait()
        except OSError as error:
            message = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        after = steps(root)
        saver.save(2, {"w": jax.random.bits(jax.random.key(2), (1 << 20,))})
    print(json.dumps([message, after, steps(root)]))
"""
SIZE = 1 << 18


def start(source: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed_while_saving(root: Path, after_s: float) -> None:
    process = start(LOOP, root, SIZE)
    assert process.stdout is not None
    for _ in range(2):  # the first of these two steps is finished, the second being written
        assert process.stdout.readline().strip().isdecimal()
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def assert_newest_step_is_whole(root: Path, at_least: int) -> int:
    newest = latest(root)
    assert newest is not None
    like = {"w": jnp.zeros((4, SIZE), jnp.int32), "step": jnp.int32(0)}
    restored = restore(root, like)
    assert (restored.step, restored.skipped) == (newest, {})
    assert int(restored.state["step"]) == newest >= at_least
    np.testing.assert_array_equal(restored.state["w"], newest)
    return newest


def survive_kills(root: Path, kills: int, seed: int) -> None:
    moments, newest = random.Random(seed), 0
    for _ in range(kills):
        killed_while_saving(root, moments.uniform(0.0, 0.2))
        newest = assert_newest_step_is_whole(root, newest + 1)


def test_no_kill_costs_a_finished_step(tmp_path):
    survive_kills(tmp_path, kills=3, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_no_kill_of_many_costs_a_finished_step(tmp_path, seed):
    survive_kills(tmp_path, kills=10, seed=seed)


def test_a_full_disk_leaves_the_earlier_step_and_says_so(tmp_path):
    process = start(FULL_DISK, tmp_path)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    message, after_failure, at_end = json.loads(output.splitlines()[-1])
    assert "Step 2 was not saved" in message and "[1] are untouched" in message
    assert (after_failure, at_end) == ([1], [1, 2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    like = {"w": jnp.zeros((1 << 20,), jnp.uint32)}
    for step in (1, 2):
        expected = jax.random.bits(jax.random.key(step), (1 << 20,))
        np.testing.assert_array_equal(restore(tmp_path, like, step=step).state["w"], expected)
    assert steps(tmp_path) == [1, 2]
