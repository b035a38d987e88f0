"""One run, whatever it runs on: 8, 4 or 1 devices, one process or two."""

import argparse
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from children import Child, bits, child, free_port, trained, weights
from same_bits import bits_of

from wlab import checkpoint, training, tree
from wlab.cli.main import main
from wlab.cli.recipe import build
from wlab.cli.train import arguments
from wlab.data import digits

HALF, STEPS = 10, 20
FLAGS = ("--steps", STEPS, "--save-every", HALF, "--optimizer", "momentum", "--ema", 0.9)
FLAGS += ("--lr", 0.05, "--warmup", 2, "--decay", 0)
PRUNED = (*FLAGS, "--density", 0.2)


@pytest.fixture(autouse=True)
def relaxed() -> Iterator[None]:
    """optax mixes floats with its int32 count; nothing here needs fast programs."""
    with jax.numpy_dtype_promotion("standard"):
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


def half_of(out: Path, to: Path) -> Path:
    """A run that has got to half of its steps."""
    shutil.copytree(out / str(HALF), to / str(HALF))
    return to


def assert_close(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_allclose(first[path], second[path], rtol=1e-3, atol=1e-5, err_msg=path)


def in_process(capsys: Any, *flags: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["train", *map(str, flags), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def abstract_state(mesh: str) -> training.TrainState:
    """Shapes and shardings of the pruned run's state, split over all of a mesh's devices."""
    parser = argparse.ArgumentParser()
    arguments(parser)
    parts = build(parser.parse_args([*map(str, PRUNED)]), digits())

    def create(key: Any) -> training.TrainState:
        return training.create_state(parts.init(key), parts.weights, parts.tx, key=key, ema=True)

    state = jax.eval_shape(create, jax.random.key(0))
    shardings = training.state_shardings(state, [(".*", training.fsdp())], training.mesh_from(mesh))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
    )


@pytest.mark.long
def test_a_run_on_8_devices_is_restored_bit_exactly_on_4_and_1_and_goes_on(tmp_path, capsys):
    out = tmp_path / "8"
    whole = in_process(capsys, *PRUNED, "--mesh", "data=4,model=2", "--fsdp", "--out", out)
    losses = [whole["train_loss"]]
    for mesh in ("data=4", "data=1"):
        restored = checkpoint.restore(out, abstract_state(mesh), step=HALF).state
        assert len(restored.stored["fc1"]["kernel"].sharding.device_set) == int(mesh[-1])
        assert {p: bits_of(x) for p, x in tree.leaves(restored).items()} == bits(out, HALF)
        other = half_of(out, tmp_path / mesh)
        found = in_process(capsys, *PRUNED, "--mesh", mesh, "--fsdp", "--out", other)
        assert_close(other, out)
        np.testing.assert_allclose(found["train_loss"], whole["train_loss"], rtol=1e-4)
        losses.append(found["train_loss"])
    print(f"loss on 8 devices, 8 then 4, 8 then 1: {losses}")


def pair(stack: ExitStack, out: Path, cache: Path, *flags: object) -> list[Child]:
    """Two processes with a device each."""
    together = ("--coordinator", f"localhost:{free_port()}", "--processes", 2, "--out", out)
    return [
        stack.enter_context(child(*FLAGS, *flags, *together, "--process", index, cache=cache))
        for index in range(2)
    ]


def trained_by_two(out: Path, cache: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        first, second = (run.result() for run in pair(stack, out, cache))
    assert first["train_loss"] == second["train_loss"]
    return first


def test_two_processes_train_what_one_does_and_hand_over_to_one(tmp_path, cache):
    one, two, handed_over = tmp_path / "1", tmp_path / "2", tmp_path / "2 to 1"
    alone = trained(*FLAGS, "--out", one, devices=2, cache=cache)
    together = trained_by_two(two, cache)
    assert_close(one, two)
    np.testing.assert_allclose(together["train_loss"], alone["train_loss"], rtol=1e-4)
    print(f"loss {alone['train_loss']:.6f} by one, {together['train_loss']:.6f} by two processes")
    trained(*FLAGS, "--out", half_of(two, handed_over), devices=2, cache=cache)
    assert_close(handed_over, one)


@pytest.mark.long
def test_two_processes_take_over_from_one(tmp_path, cache):
    one, taken_over = tmp_path / "1", tmp_path / "1 to 2"
    alone = trained(*FLAGS, "--out", one, devices=2, cache=cache)
    together = trained_by_two(half_of(one, taken_over), cache)
    assert_close(taken_over, one)
    np.testing.assert_allclose(together["train_loss"], alone["train_loss"], rtol=1e-4)


@pytest.mark.long
def test_sigterm_to_one_of_two_processes_stops_both_at_one_step(tmp_path, cache):
    steps = 20_000  # more than it takes the two to agree on a step
    with ExitStack() as stack:
        runs = pair(stack, tmp_path, cache, "--steps", steps)
        while checkpoint.latest(tmp_path) is None:
            assert all(run.is_running() for run in runs)
            time.sleep(0.1)
        runs[1].send(signal.SIGTERM)
        assert [run.wait() for run in runs] == [75, 75]
    stopped = checkpoint.latest(tmp_path)
    assert stopped is not None and HALF <= stopped < steps
    print(f"SIGTERM to one of two processes: both saved step {stopped} and exited with 75")
