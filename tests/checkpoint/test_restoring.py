"""A state comes back on any devices, whole or refused, from the newest step that can be read."""

import gc
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from loop_states import abstract, loop_state, placed
from same_bits import assert_same_bits

from wlab.checkpoint import Saver, restore, save

# Random bytes do not compress, so they stand in the file as they are.
SMALL = {"w": jax.random.bits(jax.random.key(0), (4096,), jnp.uint8), "b": jnp.ones(2)}

# Where orbax meets a broken file it leaves coroutines behind that were never awaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def abandoned_coroutines_are_collected():
    yield
    gc.collect()


@pytest.mark.parametrize(
    ("devices", "axis_types"),
    [(8, AxisType.Explicit), (4, AxisType.Explicit), (4, AxisType.Auto), (1, AxisType.Auto)],
)
def test_a_state_of_8_devices_comes_back_bit_for_bit_on_fewer(tmp_path, devices, axis_types):
    state = loop_state()
    save(tmp_path, 1, placed(state, 8, axis_types=axis_types))
    like = abstract(placed(state, devices, axis_types=axis_types))
    restored = restore(tmp_path, like).state
    assert_same_bits(restored, state)
    kernel = restored.stored["dense"]["kernel"]
    assert kernel.sharding == like.stored["dense"]["kernel"].sharding
    assert len(kernel.sharding.device_set) == devices


def test_keys_of_a_population_keep_their_sharding(tmp_path):
    keys = placed({"keys": jax.random.split(jax.random.key(1), 8)}, 8)
    save(tmp_path, 1, keys)
    restored = restore(tmp_path, abstract(placed(keys, 4))).state
    assert_same_bits(restored, keys)
    assert restored["keys"].dtype == jax.random.key(0).dtype


def test_a_target_without_shardings_goes_to_the_first_device(tmp_path):
    state = loop_state()
    save(tmp_path, 1, state)
    restored = restore(tmp_path, jax.eval_shape(lambda: state)).state
    assert_same_bits(restored, state)
    assert restored.key.sharding.device_set == {jax.devices()[0]}


@pytest.mark.parametrize(
    ("like", "found"),
    [
        ({"w": SMALL["w"]}, "leaf 'b' is in the checkpoint only"),
        (SMALL | {"c": jnp.ones(1)}, "leaf 'c' is missing from the checkpoint"),
        (
            SMALL | {"b": jnp.ones((2, 2))},
            r"leaf 'b' is float32\[2\] in the checkpoint, float32\[2,2\] is wanted",
        ),
        (
            SMALL | {"b": jnp.ones(2, jnp.bfloat16)},
            r"leaf 'b' is float32\[2\] in the checkpoint, bfloat16\[2\] is wanted",
        ),
    ],
    ids=["extra", "missing", "shape", "dtype"],
)
def test_a_state_that_does_not_fit_is_refused_by_leaf(tmp_path, like, found):
    with Saver(tmp_path) as saver:
        for step in (1, 2):
            saver.save(step, SMALL)
    with pytest.raises(ValueError, match=f"Step 2 does not fit(.|\n)*{found}"):
        restore(tmp_path, like)


def test_a_sharding_that_does_not_fit_is_refused_by_leaf(tmp_path):
    save(tmp_path, 1, SMALL)
    mesh = jax.make_mesh((8,), ("data",))
    uneven = NamedSharding(mesh, PartitionSpec("data"))
    nowhere = NamedSharding(mesh.abstract_mesh, PartitionSpec())
    for sharding, why in ((uneven, "does not divide"), (nowhere, "sharding without devices")):
        like = SMALL | {"b": jax.ShapeDtypeStruct((2,), jnp.float32, sharding=sharding)}
        with pytest.raises(ValueError, match=f"leaf 'b' .*{why}"):
            restore(tmp_path, like)


def test_only_restores_the_named_leaves_and_hands_the_others_back(tmp_path):
    state = loop_state()
    save(tmp_path, 1, state)
    like = loop_state(3)
    restored = restore(tmp_path, like, only=[("stored/.*", True), (".*", False)]).state
    assert_same_bits(restored.stored, state.stored)
    assert restored.opt is not state.opt
    assert_same_bits(restored._replace(stored=None), like._replace(stored=None))


def test_weights_restore_without_the_optimizer_that_was_saved(tmp_path):
    state = loop_state()
    save(tmp_path, 1, state)
    like = {"stored": loop_state(3).stored}
    restored = restore(tmp_path, like, only=[("stored/.*", True), (".*", False)]).state
    assert_same_bits(restored["stored"], state.stored)


def test_another_recipe_is_refused_with_a_line_for_each_key(tmp_path):
    save(tmp_path, 7, SMALL, recipe={"lr": 0.1, "prune": {"density": 0.1, "rules": [("w", True)]}})
    with pytest.raises(ValueError) as refusal:
        restore(tmp_path, SMALL, recipe={"lr": 0.1, "prune": {"density": 0.2}, "seed": 1})
    assert str(refusal.value).splitlines()[:4] == [
        "The recipe of step 7 is not this run's:",
        "  prune.density: saved 0.1, now 0.2",
        '  prune.rules: saved [["w", true]], now (absent)',
        "  seed: saved (absent), now 1",
    ]


def test_another_recipe_can_be_accepted(tmp_path, caplog):
    save(tmp_path, 1, SMALL, recipe={"lr": 0.1})
    restored = restore(tmp_path, SMALL, recipe={"lr": 0.2}, on_mismatch="warn")
    assert_same_bits(restored.state, SMALL)
    assert "lr: saved 0.1, now 0.2" in caplog.text


def test_tuples_and_lists_in_a_recipe_are_the_same(tmp_path):
    rules = (("w", True), ("b", None))
    save(tmp_path, 1, SMALL, recipe={"rules": rules})
    assert restore(tmp_path, SMALL, recipe={"rules": rules}).step == 1


def truncate_arrays(step: Path) -> None:
    largest = max((step / "state").rglob("d/*"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip_a_bit(step: Path) -> None:
    for file in (step / "state").rglob("d/*"):
        data = bytearray(file.read_bytes())
        at = data.find(np.asarray(SMALL["w"])[100:140].tobytes())
        if at >= 0:
            data[at] ^= 1
            file.write_bytes(data)


DAMAGE = {
    "truncated arrays": truncate_arrays,
    "changed bits": flip_a_bit,
    "missing manifest": lambda step: (step / "state/manifest.ocdbt").unlink(),
    "missing tree": lambda step: shutil.rmtree(step / "state"),
    "missing metadata": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "truncated metadata": lambda step: (step / "_CHECKPOINT_METADATA").write_text('{"custom'),
    "half deleted": lambda step: (step / "commit_success.txt").unlink(),
    "empty directory": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_newest_step_falls_back_to_the_one_before(tmp_path, caplog, damage):
    older = SMALL | {"b": jnp.zeros(2)}
    with Saver(tmp_path) as saver:
        saver.save(1, older)
        saver.save(2, SMALL)
    damage(tmp_path / "2")
    with caplog.at_level(logging.WARNING, logger="wlab.checkpoint"):
        restored = restore(tmp_path, SMALL)
    assert restored.step == 1
    assert list(restored.skipped) == [2]
    assert_same_bits(restored.state, older)
    assert "step 2 is damaged" in caplog.text and "restored step 1" in caplog.text


def test_a_saver_makes_room_for_the_damaged_step_to_be_saved_anew(tmp_path):
    with Saver(tmp_path) as saver:
        saver.save(1, SMALL)
        saver.save(2, SMALL)
    truncate_arrays(tmp_path / "2")
    with Saver(tmp_path) as saver:
        assert saver.restore(SMALL).step == 1
        assert saver.save(2, SMALL)
    assert restore(tmp_path, SMALL).step == 2
    assert (tmp_path / "2.damaged").is_dir()


def test_no_readable_step_is_an_error_that_lists_each_with_its_reason(tmp_path):
    with Saver(tmp_path) as saver:
        saver.save(1, SMALL)
        saver.save(2, SMALL)
    (tmp_path / "1" / "commit_success.txt").unlink()
    (tmp_path / "2" / "_CHECKPOINT_METADATA").write_text("")
    with pytest.raises(OSError) as error:
        restore(tmp_path, SMALL)
    first, second, third = str(error.value).splitlines()
    assert first.startswith("No readable checkpoint under")
    assert second.startswith("  step 2: _CHECKPOINT_METADATA is unreadable")
    assert third.startswith("  step 1: not finished or half deleted")


def test_a_step_that_was_asked_for_has_no_substitute(tmp_path):
    with Saver(tmp_path) as saver:
        saver.save(1, SMALL)
        saver.save(2, SMALL)
    truncate_arrays(tmp_path / "2")
    with pytest.raises(OSError, match=r"No readable checkpoint(.|\n)*step 2"):
        restore(tmp_path, SMALL, step=2)


@pytest.mark.parametrize("step", [None, 3])
def test_a_missing_step_is_named(tmp_path, step):
    if step is not None:
        save(tmp_path, 1, SMALL)
    with pytest.raises(FileNotFoundError, match="there are none" if step is None else "No step 3"):
        restore(tmp_path, SMALL, step=step)
