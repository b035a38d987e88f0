"""`wlab prune --method wanda, sparsegpt`, from the outside, against NumPy and the library."""

import argparse
import json
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest
from story import PARAMS, STORY, TEXT
from verbs import run_json, said

from wlab import pruning, tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.checkpoint.packed import load_packed
from wlab.cli import by_text, pruned_by_text
from wlab.cli.main import main
from wlab.pretrained import from_gguf, from_hub, move
from wlab.pruning.packed_schema import from_arrays
from wlab.pruning.packed_trees import is_sparse

FLAT = {path: np.asarray(leaf) for path, leaf in tree.leaves(PARAMS).items()}
KERNELS = [path for path in FLAT if path.endswith("kernel")]
FIRST = [path for path in KERNELS if path.endswith(("q/kernel", "k/kernel", "v/kernel"))]
CONTEXT, WINDOWS = 8, 4


@pytest.fixture
def flags(words) -> list[str]:
    return ["--data", words, "--context", str(CONTEXT), "--windows", str(WINDOWS)]


def tokens_of(file: str) -> np.ndarray:
    """The windows that are read, (4, 8)."""
    encode = from_gguf(file).tokenizer.encode
    return np.array(encode(TEXT)[: WINDOWS * CONTEXT]).reshape(WINDOWS, CONTEXT)


def first_inputs(file: str) -> np.ndarray:
    """What queries, keys and values are made of: embeddings, normed; (32, 32) in float64."""
    x = FLAT["embed/embedding"][tokens_of(file).reshape(-1)].astype(np.float64)
    x /= np.sqrt(np.square(x).mean(1, keepdims=True) + STORY.epsilon)
    return x * FLAT["block_0/norm_1/scale"]


def seen(path) -> Mapping[str, np.ndarray]:
    """The weights that the network has."""
    return {name: np.asarray(leaf) for name, leaf in tree.leaves(from_gguf(path).params).items()}


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Whether an entry is among the k largest of its column."""
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.argsort(order, axis=0) < k


def test_wanda_keeps_what_weighs_most_with_its_inputs(gguf_file, flags, tmp_path, capsys):
    target = tmp_path / "o.gguf"
    result = run_json(
        capsys, "prune", gguf_file, target, "--method", "wanda", "--density", "0.25", *flags
    )
    found, norms = seen(target), np.sqrt(np.square(first_inputs(gguf_file)).sum(0))
    for path in FIRST:
        mask = best(np.abs(FLAT[path]) * norms[:, None], 8)
        np.testing.assert_array_equal(found[path], np.where(mask, FLAT[path], 0), err_msg=path)
    for path, leaf in FLAT.items():
        kept = np.count_nonzero(found[path], axis=0)
        if path in KERNELS:
            assert (kept == 8).all(), path
            assert set(found[path][found[path] != 0]) <= set(leaf.reshape(-1)), path
        else:
            np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    assert [row["kept"] for row in result["leaves"]] == [256] * len(KERNELS)
    assert all(row["leaf"].startswith("blk.0.") for row in result["leaves"])
    assert result["losses"] == {}
    recipe = json.loads(open_source(target).metadata["pruned"])
    assert (recipe["method"], recipe["context"], recipe["windows"]) == ("wanda", CONTEXT, WINDOWS)


def test_sparsegpt_loses_what_it_says_and_less_than_wanda(gguf_file, flags, tmp_path, capsys):
    target, flags = tmp_path / "o.gguf", ["--density", "0.5", *flags]
    result = run_json(capsys, "prune", gguf_file, target, "--method", "sparsegpt", *flags)
    other = tmp_path / "wanda.gguf"
    assert main(["prune", gguf_file, str(other), "--method", "wanda", *flags]) == 0
    found, theirs, x = seen(target), seen(other), first_inputs(gguf_file)
    for path in FIRST:
        w = FLAT[path].astype(np.float64)
        lost, more = (np.square(x @ (w - of[path])).sum() for of in (found, theirs))
        assert result["losses"][path] == pytest.approx(lost / np.square(x @ w).sum(), rel=1e-3)
        assert lost < more
    assert {row["kept"] for row in result["leaves"]} == {512}
    capsys.readouterr()
    assert main(["prune", gguf_file, str(target), "--method", "sparsegpt", *flags, "--force"]) == 0
    worst = max(result["losses"], key=result["losses"].get)
    assert f"at most, of {worst}" in capsys.readouterr().out


@pytest.mark.parametrize("method", pruned_by_text.METHODS)
def test_blocks_come_after_those_that_are_done_as_in_the_library(
    method, gguf_file, flags, tmp_path, capsys
):
    target, network = tmp_path / "o.gguf", from_gguf(gguf_file)
    rules = ["blk.0.ffn_up.*=no", "blk.0.attn_q.*=0.75", "token_embd.*=0.5"]
    run_json(
        *(capsys, "prune", gguf_file, target, "--method", method, "--density", "0.5", *flags),
        *("--rules", *rules),
    )
    of = pruning.PerOutput if method == "wanda" else pruning.PerLeaf
    wanted = getattr(pruning, method)(
        network.model.apply,
        network.params,
        [(row[None].astype(np.int32),) for row in tokens_of(gguf_file)],
        [
            (".*(up|norm).*", None),
            (".*/q/kernel", of(0.75)),
            (".*", of(0.5)),
        ],
        stages=["embed/.*", "block_0/.*"],
    )
    wanted = wanted if method == "wanda" else wanted.params
    found = seen(target)
    for path, leaf in tree.leaves(wanted).items():
        np.testing.assert_array_equal(found[path], np.asarray(leaf), err_msg=path)


@pytest.mark.parametrize("method", pruned_by_text.METHODS)
def test_two_of_four_inputs_stay_whichever_axis_of_the_file_they_are(
    method, gguf_file, flags, tmp_path, capsys
):
    plain, packed, folder = tmp_path / "o.gguf", tmp_path / "p.safetensors", tmp_path / "parts"
    flags = ["--keep", 2, "--of", 4, "--method", method, *flags, "--resume", folder]
    run_json(capsys, "prune", gguf_file, plain, *flags)
    found = seen(plain)
    for path in KERNELS:
        groups = found[path].reshape(-1, 4, STORY.width)
        assert (np.count_nonzero(groups, axis=1) == 2).all(), path
    (block,) = folder.iterdir()
    written = block.stat().st_mtime_ns
    result = run_json(capsys, "prune", gguf_file, packed, *flags, "--packed")
    assert block.stat().st_mtime_ns == written  # it was read
    assert {row["form"] for row in result["leaves"]} == {"2:4"}
    leaves = from_arrays(*load_packed(packed))
    assert sum(is_sparse(leaf) for leaf in leaves.values()) == len(KERNELS)
    command = ["perplexity", gguf_file, flags[flags.index("--data") + 1], "--context", 8]
    assert run_json(capsys, *command, "--weights-file", packed) | {"seconds": 0} == run_json(
        capsys, *command, "--weights-file", plain
    ) | {"seconds": 0}


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_a_folder_of_the_hub_becomes_a_folder(method, gguf_file, flags, tmp_path, capsys):
    hub, target, other = tmp_path / "hub", tmp_path / "out-1.5", tmp_path / "o.gguf"
    assert main(["convert", gguf_file, str(hub)]) == 0
    flags = ["--method", method, "--density", 0.5, *(flags if method == "wanda" else [])]
    capsys.readouterr()
    told = run_json(capsys, "prune", hub, target, *flags, "--dry-run")
    assert not target.exists()
    assert run_json(capsys, "prune", hub, target, *flags) == told | {"written": True}
    assert {file.name for file in target.iterdir()} == {file.name for file in hub.iterdir()}
    assert open_source(target / "model.safetensors").metadata["format"] == "pt"
    run_json(capsys, "prune", gguf_file, other, *flags)
    found, wanted = tree.leaves(from_hub(target).params), seen(other)
    for path in FLAT:
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)
    assert "is there: --force" in said(capsys, "prune", hub, target, *flags)
    assert "would replace itself" in said(capsys, "prune", hub, hub, *flags, "--force")
    assert "a folder like" in said(capsys, "prune", gguf_file, tmp_path / "new", *flags)
    assert not (tmp_path / "new").exists()


def test_the_text_by_name_is_read_in_its_training_part(gguf_file, tmp_path, capsys, monkeypatch):
    parts = {"test": b"b " * 40, "train": TEXT.encode(), "valid": b"a " * 40}
    monkeypatch.setattr("wlab.data.read_text", lambda name, cache: parts)
    flags = ["--method", "wanda", "--density", "0.5", "--context", 8, "--windows", 3]
    (tmp_path / "t.txt").write_text(TEXT)
    for target, data in (("a.gguf", "wikitext-2"), ("b.gguf", tmp_path / "t.txt")):
        run_json(capsys, "prune", gguf_file, tmp_path / target, *flags, "--data", data)
    one, other = seen(tmp_path / "a.gguf"), seen(tmp_path / "b.gguf")
    for path in FLAT:
        np.testing.assert_array_equal(one[path], other[path])


@pytest.mark.parametrize("letters", [1, 4, 30])
def test_no_more_of_a_text_is_read_than_is_needed(letters, tmp_path):
    numbers = range(1000)
    (tmp_path / "t.txt").write_text(" ".join(f"{n:0{letters}}" for n in numbers))
    asked = []

    def encode(text: str) -> list[int]:
        asked.append(len(text))
        return [int(word) for word in text.split()]

    network = SimpleNamespace(tokenizer=SimpleNamespace(encode=encode))
    args = argparse.Namespace(source="x", data=str(tmp_path / "t.txt"), context=5, windows=7)
    rows = np.concatenate([row for (row,) in by_text._batches(args, network)])
    np.testing.assert_array_equal(rows.reshape(-1), numbers[: 5 * 7])
    assert len(asked) == (2 if letters == 30 else 1)


def test_arrays_that_are_one_matrix_have_one_share():
    one = move(("a", "b"), "c/kernel")
    assert list(pruned_by_text._shares(one, {"a": True, "b": True})) == [("c/kernel", True)]
    assert not list(pruned_by_text._shares(one, {"x": True}))
    with pytest.raises(ValueError, match="arrays a, b are one matrix in the network"):
        list(pruned_by_text._shares(one, {"a": True}))


def test_what_cannot_be_done_is_named(gguf_file, flags, tmp_path, capsys):
    file, target = tmp_path / "w.safetensors", tmp_path / "o.safetensors"
    save_safetensors(file, PARAMS)
    flags = ["--method", "wanda", *flags]
    error = said(capsys, "prune", file, target, "--density", "0.5", *flags)
    assert "what runs them is not known" in error and "magnitude prunes" in error
    error = said(capsys, "prune", gguf_file, target, "--keep", 1, "--of", 5, *flags)
    assert "leaf 'blk.0.attn_q.weight': groups of 5 do not divide the 32 entries" in error
    (tmp_path / "t.txt").write_text("a")
    error = said(capsys, "prune", gguf_file, target, "--density", "0.5", *flags)
    assert "too few for one window" in error
    (tmp_path / "t.txt").write_bytes(b"ab \xff")
    error = said(capsys, "prune", gguf_file, target, "--density", "0.5", *flags)
    assert "t.txt is no text in UTF-8: invalid start byte at byte 3" in error
    assert not target.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "wanda"], "--method wanda and sparsegpt take --data"),
        (["--data", "x"], "--method wanda and sparsegpt take --data"),
        (["--resume", "x"], "--resume goes with --method wanda and sparsegpt"),
        (["--method", "wanda", "--data", "x", "--axis", "-1"], "go with"),
        (
            ["--method", "sparsegpt", "--data", "x", "--allocation", "erk"],
            "--allocation and --axis",
        ),
    ],
)
def test_misuse_exits_with_2(gguf_file, tmp_path, capsys, flags, message):
    shares = ["--keep", "2", "--of", "4"] if "--axis" in flags else ["--density", "0.5"]
    with pytest.raises(SystemExit, match="2"):
        main(["prune", gguf_file, str(tmp_path / "o.gguf"), *shares, *flags])
    assert message in capsys.readouterr().err
