"""The demo, killed again and again while it fetches, trains and saves, ends as if it never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wlab import checkpoint, data

ROOT = Path(__file__).parents[2]
FLAGS = ["--steps=300", "--tune=100", "--chunk=20", "--seeds=2"]
STAGES = ("dense", "pruned", "quantized")
KINDS = ("fetching", "training", "saving", "anywhere")
TIMEOUT_S = 300
POLL_S = 0.001


class Demo:
    """One folder in which the demo runs, with a cache of data of its own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Makes the folder."""
        folder.mkdir()
        self.folder, self.cache = folder, folder / "cache"
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "WLAB_CACHE": str(self.cache),
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Runs it until it is waited for; what it prints goes to a file."""
        command = [sys.executable, "-m", "experiments.compression.deep_compression", *FLAGS]
        with (self.folder / "said").open("wb") as said:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=said, stderr=said
            )

    def finish(self) -> dict:
        """Runs it to its end; what it found."""
        with self.start() as run:
            assert run.wait(TIMEOUT_S) == 0, (self.folder / "said").read_text()
        return json.loads(next(self.folder.glob("runs/*/result.json")).read_text())

    def saved(self) -> dict[str, int]:
        """The newest finished step of each stage."""
        return {stage: checkpoint.latest(self._directory(stage)) or 0 for stage in STAGES}

    def is_at(self, kind: str) -> bool:
        """Whether a kill of this kind would strike now."""
        if kind == "fetching":
            return next(self.cache.glob(".*.part"), None) is not None
        if kind == "saving":
            return any(
                next(self._directory(s).glob("*.orbax-checkpoint-tmp*"), None) for s in STAGES
            )
        return kind == "anywhere" or sum(self.saved().values()) > 0

    def _directory(self, stage: str) -> Path:
        return next(self.folder.glob("runs/*"), self.folder / "runs" / "none") / stage


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """Compiled programs, so that a run repeated starts sooner."""
    return tmp_path_factory.mktemp("programs")


def was_killed(demo: Demo, kind: str, moments: random.Random) -> bool:
    """Runs until SIGKILL strikes at a random moment of a kind; False if it ended before."""
    before = demo.saved()
    goal = sum(before.values()) + (20 * moments.randint(0, 4) if kind in KINDS[1:3] else 0)
    with demo.start() as run:
        while run.poll() is None and sum(demo.saved().values()) < goal:
            time.sleep(POLL_S)
        while run.poll() is None and not demo.is_at(kind):
            time.sleep(POLL_S)
        time.sleep(moments.uniform(0.0, {"anywhere": 8.0, "saving": 0.01}.get(kind, 0.4)))
        run.send_signal(signal.SIGKILL)
        code = run.wait(TIMEOUT_S)
    assert code in (0, -signal.SIGKILL), (demo.folder / "said").read_text()
    after = demo.saved()
    assert all(after[stage] >= before[stage] for stage in STAGES), "a kill lost a checkpoint"
    return code != 0


@pytest.mark.long
def test_the_demo_killed_at_random_moments_ends_bit_identical(tmp_path, programs):
    try:
        data.fetch("mnist", cache=tmp_path / "first")
    except data.FetchError as error:
        pytest.skip(f"NOT RUN, MNIST can't be fetched here: {error}")
    expected = Demo(tmp_path / "uninterrupted", programs).finish()
    moments, kills, runs = random.Random(0), int(os.environ.get("WLAB_KILLS", "50")), 0
    struck = dict.fromkeys(KINDS, 0)
    while sum(struck.values()) < kills:
        demo, runs = Demo(tmp_path / str(runs), programs), runs + 1
        order = ["fetching", "fetching", *moments.choices(KINDS[1:], k=16)]
        for kind in order[: kills - sum(struck.values())]:
            if not was_killed(demo, kind, moments):
                break
            struck[kind] += 1
        found = demo.finish()
        assert found["digest"] == expected["digest"]
        assert found["quantized_error"] == expected["quantized_error"]
    print(f"{struck} kills in {runs} runs: every run ended with the digest of the uninterrupted")
