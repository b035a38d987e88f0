"""`wlab prune` and `wlab sparsity`, from the outside, against NumPy and the files' bytes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import run_json, said

from wlab import checkpoint, pruning, tree
from wlab.checkpoint import open_source, save_npz, save_safetensors
from wlab.checkpoint.packed import SCHEMA, load_packed
from wlab.cli.main import main
from wlab.cli.thinning import is_prunable
from wlab.models import LlamaConfig, llama
from wlab.pruning.packed import decompress
from wlab.pruning.packed_schema import from_arrays
from wlab.pruning.packed_trees import is_sparse

STORY = LlamaConfig(layers=2, width=32, heads=4, kv_heads=2, ffn=44, vocab=50, context=16)
PARAMS = llama(STORY).init(jax.random.key(0))
FLAT = {path: np.asarray(leaf) for path, leaf in tree.leaves(PARAMS).items()}
KERNELS = [path for path in FLAT if path.endswith("kernel")]


VALUES = f"{KERNELS[0]}.values"


@pytest.fixture
def source(tmp_path) -> str:
    save_safetensors(tmp_path / "w.safetensors", PARAMS, metadata={"made by": "a test"})
    return str(tmp_path / "w.safetensors")


def arrays_of(path) -> dict[str, np.ndarray]:
    return {name: array.read() for name, array in open_source(path).arrays.items()}


def largest(array: np.ndarray, k: int) -> np.ndarray:
    """The k largest magnitudes, ties to the lower index; zeros elsewhere."""
    order = np.argsort(-np.abs(array).astype(np.float64).reshape(-1), kind="stable")[:k]
    out = np.zeros(array.size, array.dtype)
    out[order] = array.reshape(-1)[order]
    return out.reshape(array.shape)


def assert_same(found: dict, wanted: dict) -> None:
    assert set(found) == set(wanted)
    for path, array in wanted.items():
        assert (found[path].dtype, found[path].shape) == (array.dtype, array.shape), path
        assert found[path].tobytes() == array.tobytes(), path


def test_the_largest_of_each_kernel_stay_and_other_leaves_are_untouched(source, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    result = run_json(capsys, "prune", source, target, "--density", "0.3")
    wanted = {
        p: largest(a, int(0.3 * a.size + 0.5)) if p in KERNELS else a for p, a in FLAT.items()
    }
    assert_same(arrays_of(target), wanted)
    assert [row["leaf"] for row in result["leaves"]] == KERNELS
    assert result["left_alone"] == [path for path in FLAT if path not in KERNELS]
    kept = sum(int(np.count_nonzero(array)) for array in wanted.values())
    model = result["totals"][1]
    assert (model["kept"], model["weights"]) == (kept, sum(a.size for a in FLAT.values()))
    assert model["before"] == model["after"] == sum(a.nbytes for a in FLAT.values())
    words = open_source(target).metadata
    assert words["made by"] == "a test"
    assert json.loads(words["pruned"])["density"] == 0.3


@pytest.mark.parametrize("ending", ["npz", "msgpack"])
def test_any_format_is_read_and_written(tmp_path, ending):
    array = np.random.default_rng(0).normal(size=(6, 4)).astype("bfloat16")
    save_npz(tmp_path / "w.npz", {"fc/weight": array, "steps": np.arange(3)})
    target = tmp_path / f"out.{ending}"
    assert main(["prune", str(tmp_path / "w.npz"), str(target), "--density", "0.25"]) == 0
    assert_same(arrays_of(target), {"fc/weight": largest(array, 6), "steps": np.arange(3)})


@pytest.mark.parametrize("allocation", ["globally", "erk"])
def test_allocations_are_those_of_the_library(source, tmp_path, allocation):
    target = tmp_path / "out.safetensors"
    command = ["prune", source, str(target), "--density", "0.2", "--allocation", allocation]
    assert main(command) == 0
    rules = [(".*kernel", True), (".*", None)]
    wanted = pruning.prune(PARAMS, 0.2, rules, allocation=getattr(pruning, allocation))
    assert_same(arrays_of(target), {p: np.asarray(x) for p, x in tree.leaves(wanted).items()})


def test_rules_give_a_leaf_a_density_of_its_own_or_leave_it_alone(source, tmp_path, capsys):
    rules = ["block_0/.*=no", "embed/.*=0.1", ".*/norm.*=yes", "block_1/up/.*=0"]
    result = run_json(
        capsys, "prune", source, tmp_path / "o.npz", "--density", "0.5", "--rules", *rules
    )
    named = [row["leaf"] for row in result["leaves"]]
    assert named == [path for path in FLAT if path in named]
    kept = {row["leaf"]: (row["kept"], row["weights"]) for row in result["leaves"]}
    assert kept["embed/embedding"] == (160, 1600)
    assert kept["block_1/norm_1/scale"] == (16, 32)
    assert kept["block_1/up/kernel"] == (0, 32 * 44)
    assert kept["block_1/down/kernel"] == (16 * 44, 32 * 44)
    assert not any(path.startswith("block_0") and "norm" not in path for path in kept)


def two_of_four(array: np.ndarray, axis: int) -> np.ndarray:
    rows = np.moveaxis(array, axis, -1)
    groups = rows.reshape(*rows.shape[:-1], -1, 4)
    out = np.stack([largest(group, 2) for group in groups.reshape(-1, 4)])
    return np.moveaxis(out.reshape(rows.shape), -1, axis)


@pytest.mark.parametrize("axis", [-2, -1])
def test_two_of_four_neighbours_stay_and_take_their_bytes(source, tmp_path, axis, capsys):
    plain, packed = tmp_path / "plain.safetensors", tmp_path / "packed.safetensors"
    command = ["--keep", "2", "--of", "4", "--axis", str(axis)]
    assert main(["prune", source, str(plain), *command]) == 0
    wanted = {p: two_of_four(a, axis) if p in KERNELS else a for p, a in FLAT.items()}
    assert_same(arrays_of(plain), wanted)
    capsys.readouterr()
    result = run_json(capsys, "prune", source, packed, *command, "--packed")
    for row in result["leaves"]:
        assert (row["form"], row["after"]) == ("2:4", row["weights"] * 2 + row["weights"] // 8)
    header = 8 + int.from_bytes(packed.read_bytes()[:8], "little")
    assert packed.stat().st_size == header + result["totals"][1]["after"]


def test_packed_weights_are_the_same_and_every_verb_here_reads_them(source, tmp_path, capsys):
    plain, packed, back = (tmp_path / name for name in ("p.safetensors", "q.safetensors", "b.npz"))
    assert main(["prune", source, str(plain), "--density", "0.1"]) == 0
    assert main(["prune", source, str(packed), "--density", "0.1", "--packed"]) == 0
    assert packed.stat().st_size < 0.55 * plain.stat().st_size  # the embedding stays dense
    leaves = from_arrays(*load_packed(packed))
    assert [path for path, leaf in leaves.items() if is_sparse(leaf)] == KERNELS
    dense = {p: decompress(leaf) if is_sparse(leaf) else leaf for p, leaf in leaves.items()}
    assert_same(dense, arrays_of(plain))
    assert main(["prune", str(packed), str(back), "--density", "1"]) == 0
    assert_same(arrays_of(back), arrays_of(plain))
    capsys.readouterr()
    one, other = (run_json(capsys, "sparsity", path)["leaves"] for path in (plain, packed))
    assert sorted(one, key=str) == sorted(other, key=str)


def test_a_leaf_that_is_smaller_dense_stays_dense(source, tmp_path, capsys):
    target = tmp_path / "o.safetensors"
    result = run_json(capsys, "prune", source, target, "--density", "0.99", "--packed")
    assert result["totals"][1]["after"] == result["totals"][1]["before"]
    assert all(row["form"] is None for row in result["leaves"])
    assert load_packed(target)[1] == {}


@pytest.mark.parametrize("flags", [["--density", "0.2"], ["--density", "0.2", "--packed"]])
def test_a_dry_run_tells_what_would_be_and_writes_nothing(source, tmp_path, capsys, flags):
    target = tmp_path / "o.safetensors"
    told = run_json(capsys, "prune", source, target, *flags, "--dry-run")
    assert not target.exists()
    done = run_json(capsys, "prune", source, target, *flags)
    assert (told.pop("written"), done.pop("written")) == (False, True)
    assert told == done


def test_the_table_names_what_was_left_alone(source, tmp_path, capsys):
    assert main(["prune", source, str(tmp_path / "o.npz"), "--density", "0.5", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "left alone: 6 leaves (block_0/norm_1/scale" in text
    assert "all pruned" in text and "would write" in text


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "prunable"),
    [
        ("model.layers.0.mlp.up_proj.weight", (4, 4), "float16", True),
        ("layer1.0.conv1.weight", (8, 4, 3, 3), "float32", True),
        ("lm_head.weight", (4, 4), "bfloat16", True),
        ("fc.bias", (4,), "float32", False),
        ("codes", (4, 4), "int8", False),
        ("none", (0, 4), "float32", False),
        ("model.embed_tokens.weight", (4, 4), "float32", False),
        ("transformer.wpe.weight", (4, 4), "float32", False),
        ("h.0.ln_1.weight", (1, 4), "float32", False),
        ("token_embd.weight", (4, 4), "float32", False),
        ("vit.cls_token", (1, 1, 4), "float32", False),
        ("block.0.attention.relative_attention_bias.weight", (4, 4), "float32", False),
        ("shared.weight", (4, 4), "float32", False),
        ("block_0/norm_1/scale", (1, 4), "float32", False),
        ("rms_att_weight", (6, 4), "float32", False),
        ("mlp.shared_expert.up_proj.weight", (4, 4), "float32", True),
        ("mixer.token_mixing.kernel", (4, 4), "float32", True),
        ("growten/kernel_of_kiln", (4, 4), "float32", True),
    ],
)
def test_matrices_are_prunable_and_embeddings_and_norms_are_not(name, shape, dtype, prunable):
    assert is_prunable(name, jax.ShapeDtypeStruct(shape, dtype)) == prunable


def test_a_group_that_does_not_divide_names_the_leaf_and_the_flag(source, tmp_path, capsys):
    command = ["prune", source, tmp_path / "o.npz", "--keep", "1", "--of", "8"]
    error = said(capsys, *command)
    assert "leaf 'block_0/down/kernel' has 44 along axis -2, which groups of 8" in error
    assert "--remainder dense" in error
    assert not (tmp_path / "o.npz").exists()
    for remainder, last in (("dense", 4), ("share", 1)):
        assert main([*map(str, command), "--remainder", remainder, "--force"]) == 0
        column = arrays_of(tmp_path / "o.npz")["block_0/down/kernel"][:, 0]
        assert np.count_nonzero(column[:40]) == 5
        assert np.count_nonzero(column[40:]) == last
    flags = ["--keep", 1, "--of", 4, "--axis", -3, "--dry-run"]
    assert "no axis -3" in said(capsys, *command[:3], *flags)


def broken(tmp_path, **arrays) -> str:
    save_npz(tmp_path / "x.npz", arrays)
    return str(tmp_path / "x.npz")


def test_what_cannot_be_pruned_is_named(source, tmp_path, capsys):
    target, flags = tmp_path / "o.npz", ["--density", "0.5"]
    nan = broken(tmp_path, w=np.float32([[np.nan, 1]]))
    assert "leaf 'w' holds NaN" in said(capsys, "prune", nan, target, *flags)
    double = broken(tmp_path, w=np.ones((2, 2)))
    error = said(capsys, "prune", double, target, *flags)
    assert "leaf 'w' is float64" in error and "--dtype float32" in error
    assert main(["prune", double, str(target), *flags, "--dtype", "float32"]) == 0
    none = broken(tmp_path, w=np.ones(3))
    assert "none of the 1 leaves is selected" in said(
        capsys, "prune", none, tmp_path / "p.npz", *flags
    )
    assert "rule 'hed.*' matches no leaf" in said(
        capsys, "prune", source, tmp_path / "p.npz", *flags, "--rules", "hed.*=no"
    )
    assert "Nothing at" in said(capsys, "prune", tmp_path / "no.npz", tmp_path / "p.npz", *flags)
    assert "is there: --force" in said(capsys, "prune", source, target, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --density, as 0.5, or else --keep and --of"),
        (["--density", "0.5", "--keep", "2", "--of", "4"], "or else"),
        (["--keep", "2"], "or else"),
        (["--density", "1.5"], r"1.5 is outside [0, 1]"),
        (["--density", "0.5", "--rules", "x=2"], "'x=2' is not REGEX=SHARE"),
        (["--density", "0.5", "--rules", "head"], "is not REGEX=SHARE"),
        (["--density", "0.5", "--rules", "=yes"], "is not REGEX=SHARE"),
        (["--density", "0.5", "--rules", "head=maybe"], "yes, no or a density"),
        (["--density", "0.5", "--axis", "0"], "--axis and --remainder go with"),
        (["--keep", "2", "--of", "4", "--allocation", "erk"], "--allocation divides"),
        (["--keep", "2", "--of", "4", "--rules", "x=0.5"], "a rule says yes or no"),
        (["--keep", "5", "--of", "4"], "--keep 5 is more than --of 4"),
        (["--density", "0.5", "--packed"], "--packed writes .safetensors, not"),
    ],
)
def test_misuse_exits_with_2(source, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        main(["prune", source, str(tmp_path / "o.npz"), *flags])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--packed"]])
def test_a_full_disk_leaves_the_old_file(source, capsys, monkeypatch, flags):
    before = Path(source).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wlab.checkpoint.atomic.os.fsync", full)
    command = ["prune", source, source, "--density", "0.5", "--force", *flags]
    assert "No space left" in said(capsys, *command)
    assert Path(source).read_bytes() == before
    assert [file.name for file in Path(source).parent.iterdir()] == ["w.safetensors"]
    monkeypatch.undo()
    assert main(command) == 0  # onto itself: it is read while the new one is written
    assert np.count_nonzero(arrays_of(source)[VALUES if flags else KERNELS[0]]) == 256


def test_a_packed_file_that_lies_is_refused_by_leaf(source, tmp_path, capsys):
    packed = tmp_path / "p.safetensors"
    assert main(["prune", source, str(packed), "--density", "0.1", "--packed"]) == 0
    arrays, schema = load_packed(packed)
    name = "block_0/up/kernel"

    def error(schema: object) -> str:
        save_safetensors(packed, arrays, metadata={SCHEMA: json.dumps(schema)})
        return said(capsys, "sparsity", packed)

    assert f"{name}.positions: expected" in error(
        schema | {name: schema[name] | {"shape": [320, 440]}}
    )
    assert "the form 'zip' is unknown" in error(schema | {name: {"form": "zip"}})
    assert "is a list" in error([])
    assert "'norm/scale' is both dense and" in error(
        {"norm/scale": {"form": "bitmask", "shape": [0], "dtype": "float32"}}
    )
    assert "positions: expected uint8[1], found uint8[0]" in error(
        schema | {"new": {"form": "bitmask", "shape": [3], "dtype": "float32"}}
    )


def test_sparsity_counts_a_file_and_tells_how_alike_two_masks_are(source, tmp_path, capsys):
    half, tenth = tmp_path / "h.safetensors", tmp_path / "t.npz"
    assert main(["prune", source, str(half), "--density", "0.5"]) == 0
    assert main(["prune", source, str(tenth), "--density", "0.1"]) == 0
    capsys.readouterr()
    result = run_json(capsys, "sparsity", half, tenth)
    arrays = arrays_of(half)
    for row in result["leaves"][:-2]:
        array = arrays[row["path"]]
        assert (row["weights"], row["kept"]) == (array.size, np.count_nonzero(array))
        assert row["prunable"] == (row["path"] in KERNELS)
    for row in result["overlap"]:  # the tenth is within the half
        assert row["both"] == row["other"]
        assert row["overlap"] == row["other"] / row["one"]
        assert row["by_chance"] < row["overlap"]
    assert main(["sparsity", str(half), str(tenth)]) == 0
    assert "overlap with" in capsys.readouterr().out
    assert main(["sparsity", str(half)]) == 0
    assert "overlap" not in capsys.readouterr().out


def test_sparsity_reads_orbax_and_refuses_other_leaves(source, tmp_path, capsys):
    checkpoint.save(tmp_path / "run", 0, {"fc": {"kernel": jnp.zeros((4, 4)).at[1].set(1.0)}})
    row, _, _ = run_json(capsys, "sparsity", tmp_path / "run")["leaves"]
    assert (row["path"], row["kept"], row["dead_inputs"]) == ("fc/kernel", 4, 3)
    error = said(capsys, "sparsity", tmp_path / "run", source)
    assert "leaf 'fc/kernel' is (4, 4), in" in error and "missing" in error
