"""`wlab merge`, from the outside."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import run_json

from wlab import merging
from wlab.checkpoint import open_source, save_gguf, save_safetensors
from wlab.cli.main import main

NAMES = ("base", "a", "b")


def drawn(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "norm/scale": jnp.asarray(rng.standard_normal(4), jnp.float32),
        "kernel": jnp.asarray(rng.standard_normal((5, 4)), jnp.bfloat16),
        "count": jnp.arange(3),
    }


MODELS = {name: drawn(i) for i, name in enumerate(NAMES)}


@pytest.fixture
def files(tmp_path):
    for name, arrays in MODELS.items():
        save_safetensors(tmp_path / f"{name}.safetensors", arrays)
    return [str(tmp_path / f"{name}.safetensors") for name in NAMES]


def arrays_of(path) -> dict[str, np.ndarray]:
    return {name: array.read() for name, array in open_source(path).arrays.items()}


CASES = {
    "linear": (["--weights", "1,3"], merging.Linear((1.0, 3.0))),
    "linear sum": (["--weights", "0.5", "--sum"], merging.Linear(0.5, normalize=False)),
    "slerp": (["--t", "0.25"], merging.Slerp(0.25)),
    "task-arithmetic": (["--weights", "0.5"], merging.TaskArithmetic(0.5)),
    "ties": (
        ["--density", "0.4", "--signs", "peft-frequency", "--scale", "0.7"],
        merging.Ties(0.4, convention=merging.PEFT_FREQUENCY, scale=0.7),
    ),
    "dare": (["--density", "0.5", "--seed", "7"], merging.Dare(0.5)),
    "model-stock": ([], merging.ModelStock()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_what_the_library_merges(name, files, tmp_path):
    flags, method = CASES[name]
    base, *models = files
    out = tmp_path / "out.safetensors"
    command = ["merge", name.split()[0], *models, "--base", base, "--out", str(out), *flags]
    assert main(command) == 0
    wanted = merging.merge(
        method, [MODELS["a"], MODELS["b"]], base=MODELS["base"], key=jax.random.key(7)
    )
    found = arrays_of(out)
    assert set(found) == set(wanted)
    for path, leaf in wanted.items():
        assert found[path].dtype == leaf.dtype
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    assert json.loads(open_source(out).metadata["merged"])["models"] == models


def test_what_is_kept_is_the_bases(files, tmp_path):
    base, *models = files
    out = tmp_path / "out.npz"
    command = ["merge", "task-arithmetic", *models, "--base", base, "--out", str(out)]
    assert main([*command, "--keep", ".*/scale"]) == 0
    np.testing.assert_array_equal(arrays_of(out)["norm/scale"], MODELS["base"]["norm/scale"])


def test_a_dry_run_counts_and_writes_nothing(files, tmp_path, capsys):
    out = tmp_path / "out.npz"
    command = ["merge", "linear", *files, "--out", str(out), "--dtype", "float16"]
    assert main([*command, "--dry-run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert result["bytes"] == 2 * 4 + 2 * 20 + 4 * 3
    assert {row["array"]: row["dtype"] for row in result["arrays"]}["kernel"] == "float16"


def test_folders_of_the_hub_become_a_folder(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_safetensors(tmp_path / name / "model.safetensors", MODELS[name])
        (tmp_path / name / "config.json").write_text('{"model_type": "x"}')
        (tmp_path / name / "tokenizer.json").write_text('{"model": {"vocab": {"x": 0, "y": 1}}}')
        (tmp_path / name / "code.py").write_text("")
    command = ["merge", "linear", *(str(tmp_path / n) for n in "ab"), "--out", str(tmp_path / "c")]
    run_json(capsys, *command)
    assert {file.name for file in (tmp_path / "c").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert set(arrays_of(tmp_path / "c/model.safetensors")) == set(MODELS["a"])
    told = [run_json(capsys, "inspect", tmp_path / name)["leaves"] for name in "ac"]
    assert told[0] == told[1] and len(told[0]) == len(MODELS["a"])
    assert main(command) == 1
    assert "--force replaces it" in capsys.readouterr().err
    (tmp_path / "b/tokenizer.json").write_text('{"model": {"vocab": {"y": 0, "x": 1}}}')
    assert main([*command, "--force"]) == 1
    assert "vocabularies part at row 0" in capsys.readouterr().err


def test_a_quantized_model_is_merged_as_numbers(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for name in ("a", "b"):
        arrays[name] = {"w": rng.normal(size=(3, 64)).astype(np.float32)}
        save_gguf(
            tmp_path / f"{name}.gguf", arrays[name], metadata={"k": 1}, encodings={"w": "Q8_0"}
        )
    command = ["merge", "linear", *(str(tmp_path / f"{n}.gguf") for n in "ab")]
    assert main([*command, "--out", str(tmp_path / "c.gguf")]) == 0
    merged = open_source(tmp_path / "c.gguf")
    assert merged.arrays["w"].encoding in (None, "F32")
    wanted = (arrays["a"]["w"] + arrays["b"]["w"]) / 2
    np.testing.assert_allclose(merged.arrays["w"].read(), wanted, atol=0.03)
    assert merged.metadata["k"] == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["slerp", "--density", "0.5"], "slerp takes no --density"),
        (["ties"], "ties needs --density"),
        (["linear", "--weights", "x"], "--weights"),
    ],
)
def test_misuse_exits_with_2(flags, said, files, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["merge", flags[0], *files, "--out", str(tmp_path / "o.npz"), *flags[1:]])
    assert said in capsys.readouterr().err


def test_models_that_do_not_fit_are_refused_and_nothing_is_written(files, tmp_path, capsys):
    save_safetensors(tmp_path / "odd.safetensors", MODELS["a"] | {"kernel": jnp.ones((4, 4))})
    out = tmp_path / "out.npz"
    assert (
        main(["merge", "linear", files[0], str(tmp_path / "odd.safetensors"), "--out", str(out)])
        == 1
    )
    assert "'kernel'" in capsys.readouterr().err
    assert main(["merge", "ties", *files, "--density", "0.2", "--out", str(out)]) == 1
    assert "base" in capsys.readouterr().err
    assert main(["merge", "linear", *files, "--out", str(tmp_path / "folder")]) == 1
    assert "End it in" in capsys.readouterr().err
    assert not out.exists()
