"""Packed weights go into files and come back, by a schema that the file carries."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from wlab import checkpoint, pruning, tree
from wlab.checkpoint import packed as packed_files
from wlab.checkpoint.packed import load_packed, save_packed
from wlab.pruning.packed import decompress
from wlab.pruning.packed_schema import from_arrays, to_arrays
from wlab.pruning.packed_trees import compress_tree, decompress_tree, is_sparse


@pytest.fixture(scope="module")
def packed() -> dict:
    key = jax.random.key(0)
    params = {
        "block": {"up": jax.random.normal(key, (48, 20)), "bias": jnp.ones(20)},
        "half": jax.random.normal(key, (33, 7), jnp.bfloat16),
        "placed": jax.random.normal(key, (16, 6)),
        "dead": jnp.zeros((64, 3)),
    }
    rules = [("block/up", 0.1), ("half", 0.3), (".*", None)]
    pruned = pruning.prune(params, 0.5, rules)
    mask = pruning.nm_mask(jnp.abs(params["placed"]), keep=2, of=4, axis=0)
    return compress_tree(pruned | {"placed": jnp.where(mask, params["placed"], 0)})


def assert_same(found: dict, packed: dict) -> None:
    wanted = tree.leaves(decompress_tree(packed))
    assert set(found) == set(wanted)
    for path, leaf in found.items():
        plain = np.asarray(decompress(leaf) if is_sparse(leaf) else leaf)
        array = np.asarray(wanted[path])
        assert (plain.dtype, plain.shape) == (array.dtype, array.shape), path
        assert plain.tobytes() == array.tobytes(), path


def test_one_file_describes_itself_and_any_reader_reads_its_arrays(packed, tmp_path):
    path = tmp_path / "w.safetensors"
    arrays, schema = to_arrays(packed)
    save_packed(path, arrays, schema, metadata={"made by": "a test"})
    assert_same(from_arrays(*load_packed(path)), packed)
    theirs = safetensors.numpy.load_file(path)
    assert set(theirs) == set(arrays)
    words = checkpoint.open_source(path).metadata
    assert words["made by"] == "a test"
    assert json.loads(words["wlab.packed"]) == schema
    bits = np.unpackbits(theirs["block/up.positions"], bitorder="little", count=960)
    np.testing.assert_array_equal(
        bits.reshape(48, 20), np.asarray(decompress(packed["block"]["up"])) != 0
    )


def test_the_file_is_as_small_as_the_bytes_say(packed, tmp_path):
    arrays, schema = to_arrays(packed)
    save_packed(tmp_path / "w.safetensors", arrays, schema)
    header = 8 + int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "w.safetensors").stat().st_size == header + tree.nbytes(packed)


def test_orbax_keeps_the_same_arrays_and_the_schema_as_recipe(packed, tmp_path):
    arrays, schema = to_arrays(packed)
    checkpoint.save(tmp_path / "run", 0, arrays, recipe={"packed": schema})
    like = jax.eval_shape(lambda: {name: jnp.asarray(x) for name, x in arrays.items()})
    restored = checkpoint.restore(tmp_path / "run", like)
    assert_same(from_arrays(restored.state, restored.recipe["packed"]), packed)
    loaded = tree.leaves(checkpoint.load(tmp_path / "run"))  # whoever does not know what to expect
    assert_same(from_arrays(loaded, schema), packed)


def test_orbax_keeps_the_tree_itself_where_its_like_is_at_hand(packed, tmp_path):
    kept = {"half": packed["half"], "placed": packed["placed"]}
    checkpoint.save(tmp_path / "run", 0, kept)
    restored = checkpoint.restore(tmp_path / "run", kept)
    assert jax.tree.structure(restored.state) == jax.tree.structure(kept)
    assert_same(dict(restored.state), kept)


def test_a_truncated_file_is_refused(packed, tmp_path):
    path = tmp_path / "w.safetensors"
    save_packed(path, *to_arrays(packed))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="the file has"):
        load_packed(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "has no schema of packed weights: read it by `load_safetensors`"),
        ({"wlab.packed": "{"}, "is not JSON"),
        ({"wlab.packed": "[" * 100_000}, "is not JSON"),
        ({"wlab.packed": "[]"}, "is a list, not an object"),
    ],
)
def test_a_file_without_a_schema_or_with_a_broken_one_is_refused(tmp_path, words, message):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"w": np.ones(2)}, path, metadata=words or None)
    with pytest.raises(ValueError, match=message):
        load_packed(path)


def test_a_schema_that_is_not_plain_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="the schema is not plain JSON: Object of type ndarray"):
        save_packed(tmp_path / "w.safetensors", {}, {"w": np.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(packed, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_packed(path, *to_arrays(packed))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wlab.checkpoint.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_packed(path, {"w": np.ones(2)}, {})
    monkeypatch.undo()
    assert_same(from_arrays(*packed_files.load_packed(path)), packed)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
