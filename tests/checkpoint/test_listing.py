"""A listing is right, for every format, and never waits for JAX."""

import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from loop_states import loop_state, placed
from orbax.checkpoint import v1

from wlab import tree
from wlab.checkpoint import Entry, listing, save, save_npz, save_safetensors

TREE = {"dense": {"kernel": jnp.ones((16, 4)), "bias": jnp.ones(4, jnp.bfloat16)}, "n": jnp.int8(1)}
ENTRIES = [
    Entry("dense/bias", (4,), "bfloat16", 8),
    Entry("dense/kernel", (16, 4), "float32", 256),
    Entry("n", (), "int8", 1),
]


@pytest.mark.parametrize(
    ("name", "write"), [("w.npz", save_npz), ("w.safetensors", save_safetensors)]
)
def test_a_plain_file_is_listed(tmp_path, name, write):
    write(tmp_path / name, TREE)
    assert sorted(listing(tmp_path / name), key=lambda entry: entry.path) == ENTRIES


def save_standard(path, params):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, params)


def save_zarr_files(path, params):
    ocp.PyTreeCheckpointer(use_ocdbt=False).save(path, params)


@pytest.mark.parametrize("write", [save_standard, save_zarr_files, v1.save])
def test_a_checkpoint_of_orbax_alone_is_listed(tmp_path, write):
    write(tmp_path / "there", TREE)
    assert sorted(listing(tmp_path / "there"), key=lambda entry: entry.path) == ENTRIES


def test_our_steps_are_listed_with_their_shardings(tmp_path):
    state = placed(loop_state(), 8)
    save(tmp_path, 3, state)
    found = {entry.path: entry for entry in listing(tmp_path)}
    expected = tree.leaves(state)
    assert set(found) == set(expected)
    assert found.pop("key") == Entry("key", (2,), "uint32", 8, "data=8: (-)")
    for path, entry in found.items():
        leaf = expected[path]
        assert (entry.shape, entry.dtype) == (leaf.shape, leaf.dtype.name)
        assert entry.nbytes == leaf.nbytes
    assert found["stored/dense/kernel"].sharding == "data=8: (data)"
    assert found["stored/a/b"].sharding == "data=8: ()"
    assert listing(tmp_path / "3") == listing(tmp_path)


def test_an_int4_is_half_a_byte(tmp_path):
    v1.save(tmp_path / "w", {"codes": jnp.ones(5, jnp.int4)})
    assert listing(tmp_path / "w") == [Entry("codes", (5,), "int4", 3)]


def test_listing_never_imports_jax(tmp_path):
    save(tmp_path / "steps", 1, TREE)
    save_npz(tmp_path / "w.npz", TREE)
    save_safetensors(tmp_path / "w.safetensors", TREE)
    source = """
        import sys
        from wlab.checkpoint.listing import listing
        for path in sys.argv[1:]:
            assert len(listing(path)) == 3
        print([name for name in ("jax", "orbax", "optax", "flax") if name in sys.modules])
    """
    files = [tmp_path / "steps", tmp_path / "w.npz", tmp_path / "w.safetensors"]
    command = [sys.executable, "-c", textwrap.dedent(source), *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def damaged(change):
    def build(root):
        v1.save(root / "w", TREE)
        change(root / "w")
        return root / "w"

    return build


def unlisted(name, content=b""):
    def build(root):
        (root / name).write_bytes(content)
        return root / name

    return build


def remove_headers(path):
    for file in path.rglob("d/*"):
        file.unlink()


BAD = {
    "another kind of file": (unlisted("w.xyz"), "is of no known format"),
    "an empty directory": (lambda root: root, "is not an orbax checkpoint"),
    "steps of which none is finished": (
        lambda root: (root / "3").mkdir() or root,
        "none is finished",
    ),
    "metadata that is not JSON": (
        damaged(lambda path: (path / "state/_METADATA").write_text("{")),
        "_METADATA is damaged",
    ),
    "metadata of another form": (
        damaged(lambda path: (path / "state/_METADATA").write_text('{"tree_metadata": [1]}')),
        "_METADATA is malformed",
    ),
    "shardings of another form": (
        damaged(lambda path: (path / "state/_sharding").write_text('{"dw==": "3"}')),
        "_sharding is malformed",
    ),
    "a broken database": (
        damaged(lambda path: (path / "state/manifest.ocdbt").write_bytes(b"\0" * 64)),
        "database is damaged",
    ),
    "missing array headers": (damaged(remove_headers), "database is damaged|no readable header"),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_listed_is_refused(tmp_path, build, message):
    with pytest.raises(ValueError, match=message):
        listing(build(tmp_path))


def test_nothing_is_not_listed(tmp_path):
    with pytest.raises(FileNotFoundError, match="Nothing at"):
        listing(tmp_path / "w.npz")


def test_a_foreign_safetensors_file_keeps_its_names(tmp_path):
    import safetensors.numpy

    safetensors.numpy.save_file({"h.0.attn.weight": np.zeros((2, 2))}, tmp_path / "m.safetensors")
    assert listing(tmp_path / "m.safetensors") == [Entry("h.0.attn.weight", (2, 2), "float64", 32)]
