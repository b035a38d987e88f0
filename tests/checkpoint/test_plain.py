"""Checkpoints written by others are read as nested dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from loop_states import placed
from orbax.checkpoint import v1

from wlab.checkpoint import load, save

FOREIGN = {
    "dense": {"kernel": jnp.arange(16.0).reshape(8, 2), "bias": jnp.ones(8, jnp.bfloat16)},
    "layers": [jnp.arange(3), jnp.zeros(2)],
    "hole": None,
}


def save_standard(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def save_managed(path, tree):
    with ocp.CheckpointManager(path) as manager:
        for step in (2, 10):
            manager.save(step, args=ocp.args.StandardSave(tree))


def save_zarr_files(path, tree):
    ocp.PyTreeCheckpointer(use_ocdbt=False).save(path, tree)


@pytest.mark.parametrize("write", [save_standard, save_managed, save_zarr_files, v1.save])
def test_a_tree_written_by_orbax_alone_is_read(tmp_path, write):
    write(tmp_path / "there", placed(FOREIGN, 8))
    found = load(tmp_path / "there")
    assert jax.tree.structure(found) == jax.tree.structure(
        {"dense": {"kernel": 0, "bias": 0}, "layers": {"0": 0, "1": 0}}
    )
    jax.tree.map(np.testing.assert_array_equal, found["dense"], FOREIGN["dense"])
    np.testing.assert_array_equal(found["layers"]["0"], [0, 1, 2])
    assert found["dense"]["bias"].dtype == jnp.bfloat16
    assert found["dense"]["kernel"].sharding.device_set == {jax.devices()[0]}


def test_our_own_steps_are_read_by_others_and_by_load(tmp_path):
    save(tmp_path, 3, {"dense": {"kernel": jnp.ones(2)}})
    np.testing.assert_array_equal(load(tmp_path)["dense"]["kernel"], [1, 1])
    theirs = v1.load(tmp_path / "3", {"dense/kernel": jnp.zeros(2)})
    np.testing.assert_array_equal(theirs["dense/kernel"], [1, 1])


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint directory"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be read as an orbax checkpoint"):
        load(tmp_path / "empty")
