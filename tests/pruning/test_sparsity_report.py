"""Reports of what is left, and of what two masks share, against counts by hand and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import pruning
from wlab.pruning.forms import NM, Bitmask
from wlab.pruning.overlap import overlap
from wlab.pruning.packed import compress
from wlab.pruning.sparsity import leaf_sparsity, sparsity_report


def row(table, path: str) -> dict:
    return next(record for record in table.records() if record["path"] == path)


def test_dead_rows_and_columns_are_inputs_and_outputs_without_a_weight():
    kernel = np.zeros((4, 3), np.float32)
    kernel[0, 1], kernel[2, 1], kernel[3, 2] = 1, np.nan, -0.0
    found = leaf_sparsity(kernel)
    assert (found.weights, found.kept) == (12, 2)
    assert (found.dead_inputs, found.dead_outputs) == (2, 2)
    assert (found.bytes, found.bytes_bitmask) == (48, 2 + 3 * 4)  # −0.0 is written out
    for without_two_axes in (np.zeros(3), np.int64(7)):
        assert leaf_sparsity(without_two_axes).dead_inputs is None


def test_channels_of_a_convolution_are_dead_if_they_are_in_every_tap():
    kernel = np.ones((3, 3, 4, 5), np.float32)
    kernel[:, :, 1] = 0
    kernel[:, :, :, [0, 2]] = 0
    kernel[0, :, 2] = 0
    assert leaf_sparsity(kernel)[3:5] == (1, 2)


@pytest.mark.parametrize(
    ("keep", "axis", "fits"),
    [(1, 0, "1:4, axis -2"), (2, 0, "2:4, axis -2"), (2, 1, "2:4, axis -1"), (3, 0, None)],
)
def test_the_groups_that_a_leaf_fits_are_named_with_their_bytes(keep, axis, fits):
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32))
    mask = pruning.nm_mask(scores, keep=keep, of=4, axis=axis)
    pruned = np.asarray(jnp.where(mask, scores, 0))
    found = leaf_sparsity(pruned)
    wanted = None if fits is None else compress(pruned, NM(keep, 4, axis - 2)).nbytes
    assert (found.fits, found.bytes_nm) == (fits, wanted)
    assert found.bytes_bitmask == compress(pruned, Bitmask()).nbytes


@pytest.fixture(scope="module")
def tied() -> dict:
    table = np.ones((10, 6), np.float32)
    table[:, 4:] = 0
    hidden = np.ones((6, 6), np.float32)
    hidden[3:] = 0
    table = jnp.asarray(table)
    return {"embed": table, "head": table, "hidden": jnp.asarray(hidden), "scale": jnp.ones(6)}


def test_both_sums_count_a_tied_leaf_once(tied):
    table = sparsity_report(tied)
    assert row(table, "head")["tied"] == "embed"
    assert row(table, "embed")["tied"] is None
    sums = [row(table, name) for name in ("all prunable", "the model")]
    assert [(s["weights"], s["kept"]) for s in sums] == [(60 + 36, 40 + 18), (102, 64)]
    assert [s["bytes"] for s in sums] == [4 * 96, 4 * 102]
    assert [s["bytes_packed"] for s in sums] == [245, 245 + 24]
    assert [s["density"] for s in sums] == [58 / 96, 64 / 102]
    assert sums[0]["bytes_bitmask"] == 8 + 5 + 4 * (40 + 18)
    rules = [("hidden", True), (".*", None)]
    assert row(sparsity_report(tied, rules), "all prunable")["weights"] == 36
    rules = [("embed", None), ("head", True), (".*", None)]  # still counted, though tied to another
    assert row(sparsity_report(tied, rules), "all prunable")["weights"] == 60
    assert "all prunable" in str(table)


def test_multiply_adds_left_are_in_proportion_and_a_tied_product_counts_twice(tied):
    def fn(params, x):
        return params["scale"] * (x @ params["embed"] @ params["hidden"]) @ params["head"].T

    x = jax.ShapeDtypeStruct((7, 10), jnp.float32)
    table = sparsity_report(
        tied, fn=lambda p, x: fn(p | {"scale": p["scale"][None]}, x), inputs=(x,)
    )
    columns = ("multiply_adds", "multiply_adds_left", "outputs")
    wanted = {
        "embed": (7 * 60, 7 * 40, 7 * 6),
        "head": (7 * 60, 7 * 40, 7 * 10),
        "hidden": (7 * 36, 7 * 18, 7 * 6),
        "scale": (0, 0, 0),
        "the model": (7 * 156, 7 * 98, 7 * 22),
    }
    for path, numbers in wanted.items():
        assert tuple(row(table, path)[name] for name in columns) == numbers, path


def test_an_empty_tree_of_matrices_has_sums_of_nothing():
    table = sparsity_report({"b": jnp.ones(3)})
    assert row(table, "all prunable")["weights"] == 0
    assert row(table, "the model")["kept"] == 3


def test_overlap_is_intersection_over_union_beside_that_of_chance():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40, 50)) < 0.3
    one, other = {"a": a, "b": np.ones(4)}, {"a": b, "b": np.float32([1, 0, -0.0, 2])}
    table = overlap(one, other)
    found = row(table, "a")
    assert found["overlap"] == (a & b).sum() / (a | b).sum()
    assert found["overlap"] == pytest.approx(found["by_chance"], abs=0.02)
    assert (row(table, "b")["both"], row(table, "b")["overlap"]) == (2, 0.5)
    assert row(table, "b")["by_chance"] == 0.5  # a full mask has every other within it
    assert row(table, "all")["overlap"] == ((a & b).sum() + 2) / ((a | b).sum() + 4)
    same = overlap(one, one)
    assert row(same, "all")["overlap"] == 1


def test_two_empty_masks_are_alike_and_other_leaves_are_refused():
    assert row(overlap({"a": np.zeros(3)}, {"a": np.zeros(3)}), "a")["overlap"] == 1
    with pytest.raises(ValueError, match=r"leaf 'a' has the shapes \(3,\) and \(4,\)"):
        overlap({"a": np.zeros(3)}, {"a": np.zeros(4)})
    with pytest.raises(ValueError, match=r"leaf 'b' has the shapes None and \(1,\)"):
        overlap({"a": np.zeros(3)}, {"a": np.zeros(3), "b": np.zeros(1)})
