"""`wlab train`: what it builds, what it leaves behind, and how it refuses."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from wlab import checkpoint, training, tree
from wlab.cli.main import main
from wlab.cli.recipe import build
from wlab.cli.train import RATES
from wlab.data import digits

EVERYTHING = ["--density", "0.2", "--bits", "4", "--ema", "0.9", "--accumulate", "2", "--bf16"]
EVERYTHING += ["--clip", "1", "--schedule", "wsd", "--mesh", "data=4,model=2", "--fsdp"]
EVERYTHING += ["--save-every", "20", "--eval-every", "30"]
DEFAULTS = {
    "data": "digits",
    "model": "lenet-300-100",
    "seed": 0,
    "steps": 60,
    "batch": 64,
    "accumulate": 1,
    "optimizer": "adamw",
    "lr": 1e-3,
    "schedule": "cosine",
    "warmup": 3,
    "decay": 0.01,
    "clip": None,
    "bf16": False,
    "guard": True,
    "density": None,
    "bits": None,
    "ema": None,
}


@pytest.fixture(autouse=True, scope="module")
def relaxed(tmp_path_factory) -> Iterator[None]:
    """One quick compilation for all runs; optax mixes floats with its int32 count."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_disable_most_optimizations", True)
    compilation_cache.reset_cache()
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
    jax.config.update("jax_disable_most_optimizations", False)
    compilation_cache.reset_cache()


def run_json(capsys: Any, *argv: object) -> dict[str, Any]:
    assert main(["train", *map(str, argv), "--no-progress", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: Any, *argv: object) -> str:
    assert main(["train", *map(str, argv), "--no-progress"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of 60 steps with every kind of flag, on 4×2 devices."""
    out = tmp_path_factory.mktemp("train") / "a"
    assert main(["train", "--steps", "60", *EVERYTHING, "--out", str(out), "--json"]) == 0
    return out


def test_without_flags_it_learns_the_digits(capsys):
    assert main(["train", "--steps", "150", "--no-progress"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    shown = dict(rows)
    assert (shown["data"], shown["steps"], shown["weights"]) == ("digits", "150", "50,610")
    assert float(shown["test_error"]) < 0.1  # 359 images; chance is 0.9
    assert shown["checkpoint"] == "–"


def test_a_run_leaves_checkpoints_metrics_and_its_recipe(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        "20",
        "40",
        "60",
        "metrics.jsonl",
        "recipe.json",
    ]
    recipe = json.loads((trained / "recipe.json").read_text())
    assert (recipe["density"], recipe["warmup"], recipe["decay"]) == (0.2, 3, 0.01)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert list(losses) == [*range(6, 61, 6)]
    assert losses[60] < losses[6]
    assert [line["step"] for line in lines if "test_error" in line] == [30, 60]


def test_the_stored_kernels_are_pruned_exactly_and_the_average_with_them(trained):
    saved = tree.leaves(checkpoint.load(trained))
    kernels = {p: leaf for p, leaf in saved.items() if p.startswith("stored/") and leaf.ndim == 2}
    assert {p: int(np.count_nonzero(leaf)) for p, leaf in kernels.items()} == {
        "stored/fc1/kernel": 3840,
        "stored/fc2/kernel": 6000,
        "stored/fc3/kernel": 200,
    }
    for path, leaf in kernels.items():
        average = np.asarray(saved[path.replace("stored", "ema")])
        assert not average[np.asarray(leaf) == 0].any()


def test_a_finished_run_is_measured_again_on_other_devices(trained, capsys):
    flags = [*EVERYTHING, "--mesh", "data=2", "--fsdp", "--steps", "60", "--out", trained]
    again = run_json(capsys, *flags)
    assert again["steps"] == 60
    assert again["checkpoint"] == str(trained / "60")
    assert abs(again["density"] - 0.2) < 1e-9
    assert {"test_error", "test_ema_error", "train_loss"} < set(again)


def test_another_recipe_is_refused_by_name_and_started_anew_on_demand(trained, capsys, tmp_path):
    out = tmp_path / "a"
    flags = ["--steps", "20", "--optimizer", "sgd", "--mesh", "data=1", "--out", out]
    first = run_json(capsys, *flags)
    message = refusal(capsys, *flags, "--lr", "0.05", "--bits", "4")
    assert "lr: saved 0.1, now 0.05" in message
    assert "bits: saved null, now 4" in message
    assert "--fresh" in message
    assert run_json(capsys, *flags)["test_loss"] == first["test_loss"]
    anew = run_json(capsys, *flags, "--lr", "0.05", "--fresh")
    assert anew["test_loss"] != first["test_loss"]
    assert (checkpoint.steps(out), checkpoint.steps(tmp_path / "a.1")) == ([20], [20])


def test_the_modes_train_the_same_weights(tmp_path, capsys):
    flags = ["--steps", "20", "--optimizer", "sgd", "--mesh", "data=8"]
    found = {}
    for mode in ("jit", "shard_map", "pmap"):
        run_json(capsys, *flags, "--mode", mode, "--out", tmp_path / mode)
        saved = tree.leaves(checkpoint.load(tmp_path / mode))
        found[mode] = {path: leaf for path, leaf in saved.items() if path.startswith("stored/")}
    for mode in ("shard_map", "pmap"):
        for path, leaf in found["jit"].items():
            np.testing.assert_allclose(found[mode][path], leaf, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("model", ["lenet-300-100", "lenet-5"])
def test_every_named_optimizer_makes_a_step_that_keeps_the_states_types(optimizer, model):
    dataset = digits()
    if model == "lenet-5":
        image = np.zeros((len(dataset.train["label"]), 16, 16), np.uint8)
        dataset = type(dataset)({**dataset.train, "image": image}, dataset.test, "padded", 10)
    flags = Namespace(**DEFAULTS | {"optimizer": optimizer, "model": model, "density": 0.5})
    parts = build(flags, dataset)

    def create(key: Any) -> training.TrainState:
        return training.create_state(parts.init(key), parts.weights, parts.tx, key=key)

    state = jax.eval_shape(create, jax.random.key(0))
    batch = {name: array[:64] for name, array in dataset.train.items()}
    after, metrics = jax.eval_shape(parts.step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {"loss", "error", "nonfinite"} == set(metrics)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch", "2000"], "1438 samples do not make a batch of 2000"),
        (["--batch", "60"], "A batch of 60 rows does not divide over 8 data shards"),
        (["--mode", "pmap", "--mesh", "data=4,model=2"], "the mesh has ['model']"),
        (["--mode", "shard_map", "--fsdp"], 'use mode="jit" for weights split'),
        (["--mesh", "data=9"], "needs 9 devices; there are 8"),
        (["--mesh", "data"], 'not of the form "data=4,model=2"'),
        (["--model", "lenet-5"], "side must be at least 16 pixels, got 8"),
        (["--warmup", "3000"], "Warm-up and decay take 3000 steps of 2000"),
        (["--ema", "1"], "ema must be a decay in [0, 1)"),
        (["--data", "mnist", "--file", "nowhere"], "nowhere"),
    ],
)
def test_flags_that_do_not_fit_each_other_are_refused_readably(flags, message, capsys):
    assert message in refusal(capsys, *flags)


@pytest.mark.parametrize("guard", ["--guard", "--no-guard"])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_remedy(guard, capsys, tmp_path):
    flags = ["--optimizer", "sgd", "--mesh", "data=1", "--lr", "1e30", "--save-every", "1"]
    message = refusal(capsys, *flags, guard, "--out", tmp_path)
    assert "ower the learning rate" in message
    if guard == "--no-guard":
        weights = tree.leaves(checkpoint.load(tmp_path))
        assert all(np.isfinite(w).all() for p, w in weights.items() if p.startswith("stored"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optimizer", "adamx"], "invalid choice: 'adamx'"),
        (["--model", "resnet"], "invalid choice: 'resnet'"),
        (["--mode", "gspmd"], "invalid choice: 'gspmd'"),
        (["--bits", "9"], "invalid choice: 9"),
        (["--density", "1.5"], "1.5 is outside [0, 1]"),
        (["--density", "few"], "invalid float value: 'few'"),
        (["--lr", "nan"], "nan is outside"),
        (["--steps", "0"], "0 is outside [1, inf]"),
        (["--keep", "1"], "1 is outside [2, inf]"),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3"),
        (["--fresh"], "need --out DIR"),
        (["--tensorboard"], "need --out DIR"),
        (["--process", "0"], "need --coordinator"),
        (["--file", "mnist.tgz"], "the digits need no --file"),
    ],
)
def test_misuse_of_train_exits_with_2_and_says_what_was_wrong(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", *flags])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_writer_that_is_not_installed_names_its_extra(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = refusal(capsys, "--tensorboard", "--out", tmp_path)
    assert "weightlab[tensorboard]" in message


def test_the_flags_are_listed_without_jax():
    code = (
        "import sys; from wlab.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit as end: sys.exit(end.code or 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--density" in done.stdout
