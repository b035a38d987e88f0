"""A run that is killed, stopped or out of disk ends bit-identical to one that never was."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from children import TIMEOUT_S, Child, bits, child, trained

from wlab import checkpoint

STEPS, SAVE_EVERY = 120, 8
FLAGS = ("--steps", STEPS, "--save-every", SAVE_EVERY, "--keep", 2, "--optimizer", "momentum")
FLAGS += ("--density", 0.1, "--ema", 0.9)
POLL_S = 0.0005
KINDS = ("training", "saving", "starting")  # what a run is killed at


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("uninterrupted")
    trained(*FLAGS, "--out", out, cache=cache)
    return bits(out)


def survive_kills(
    folder: Path, cache: Path, kills: int, seed: int, expected: dict[str, bytes]
) -> None:
    """Kills until enough kills have struck; each run that gets to its end is compared."""
    moments, struck, runs = random.Random(seed), 0, 0
    while struck < kills:
        out, runs, finished = folder / str(runs), runs + 1, False
        while not finished:
            kind = KINDS[struck % len(KINDS)] if struck < kills else None
            finished = not was_killed(out, cache, kind, moments)
            struck += not finished
        assert bits(out) == expected
    print(f"{kills} kills in {runs} runs: every run ended bit-identical")


def was_killed(out: Path, cache: Path, kind: str | None, moments: random.Random) -> bool:
    """Runs until SIGKILL strikes at a random moment of a kind, or to the end."""
    with child(*FLAGS, "--out", out, cache=cache) as run:
        if kind is None:
            run.result()
            return False
        saved = await_moment(run, out, kind, moments)
        run.send(signal.SIGKILL)
        code, errors = run.wait(), run.errors()
    assert code in (0, -signal.SIGKILL), errors
    assert (checkpoint.latest(out) or 0) >= saved, "a kill lost a finished checkpoint"
    return code != 0


def await_moment(run: Child, out: Path, kind: str, moments: random.Random) -> int:
    """Waits for a random moment of a kind; returns the newest step that was saved by then."""
    saved = checkpoint.latest(out) or 0
    if kind == "starting":
        time.sleep(moments.uniform(0.0, 3.0))
        return saved
    goal = saved + SAVE_EVERY * moments.randint(1, 4)
    while saved < goal and run.is_running():
        time.sleep(POLL_S)
        saved = checkpoint.latest(out) or 0
    while kind == "saving" and not is_saving(out) and run.is_running():
        time.sleep(POLL_S)
    time.sleep(moments.uniform(0.0, 0.02 if kind == "saving" else 0.2))
    return saved


def is_saving(out: Path) -> bool:
    return any(".orbax-checkpoint-tmp" in path.name for path in out.iterdir())


def await_first_save(run: Child, out: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not checkpoint.latest(out):
        assert run.is_running() and time.monotonic() < deadline, run.errors()
        time.sleep(POLL_S)


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_bit_identical(tmp_path, cache, uninterrupted):
    survive_kills(tmp_path, cache, 3, 0, uninterrupted)


@pytest.mark.long
def test_runs_killed_many_times_end_bit_identical(tmp_path, cache, uninterrupted):
    kills = int(os.environ.get("WLAB_KILLS", "50"))
    survive_kills(tmp_path, cache, kills, 1, uninterrupted)


def test_sigterm_saves_at_the_next_step_and_exits_with_75(tmp_path, cache, uninterrupted):
    with child(*FLAGS, "--out", tmp_path, cache=cache) as run:
        await_first_save(run, tmp_path)
        run.send(signal.SIGTERM)
        assert run.wait() == 75, run.errors()
    stopped = checkpoint.latest(tmp_path)
    assert stopped is not None and SAVE_EVERY <= stopped < STEPS
    print(f"SIGTERM: saved at step {stopped}, exit code 75")
    trained(*FLAGS, "--out", tmp_path, cache=cache)
    assert bits(tmp_path) == uninterrupted


def test_a_full_disk_is_named_and_costs_no_earlier_checkpoint(tmp_path, cache, uninterrupted):
    with child(*FLAGS, "--out", tmp_path, cache=cache) as run:
        await_first_save(run, tmp_path)
        run.limit_files(1 << 18)
        assert run.wait() == 1, run.errors()
        message = run.errors().splitlines()[-1]
    print(message)
    assert message.startswith("wlab train: Step ")
    assert "was not saved" in message and "are untouched; make room" in message
    assert checkpoint.latest(tmp_path)
    trained(*FLAGS, "--out", tmp_path, cache=cache)
    assert bits(tmp_path) == uninterrupted
