"""Sparse arrays: every bit comes back, bytes are what the formulas say, damage is named."""

import dataclasses
import json
from math import ceil, log2, prod

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 and float8 by name)
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import pruning, tree
from wlab.pruning.forms import NM, Bitmask
from wlab.pruning.packed import Sparse, check_sparse, compress, decompress
from wlab.pruning.packed_schema import from_arrays, to_arrays
from wlab.pruning.packed_trees import compress_tree, decompress_tree, is_sparse

DTYPES = [
    "float32",
    "bfloat16",
    "float16",
    "float64",
    "int8",
    "bool",
    "float8_e4m3fn",
    "complex64",
    "complex128",
]
SHAPES = [(), (0,), (1,), (8,), (9,), (3, 5), (0, 4), (4, 0), (16, 6), (3, 3, 4, 2)]


def drawn(shape: tuple[int, ...], dtype: str, density: float, seed: int = 0) -> np.ndarray:
    """Random bits, NaN and −0.0 among them, in a part of the entries."""
    rng, size = np.random.default_rng(seed), np.dtype(dtype).itemsize
    raw = rng.integers(0, 2 if dtype == "bool" else 256, (prod(shape), size), np.uint8)
    raw[rng.random(len(raw)) >= density] = 0
    return raw.reshape(-1).view(dtype).reshape(shape)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_a_bitmask_gives_back_every_bit_in_the_bytes_of_the_formula(dtype, shape, density):
    array = drawn(shape, dtype, density)
    sparse = compress(array, Bitmask())
    raw = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.itemsize)
    kept = int(raw.any(axis=1).sum())
    assert same_bits(decompress(sparse), array)
    assert sparse.nbytes == ceil(array.size / 8) + kept * array.itemsize
    check_sparse(sparse)


@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    keep=st.integers(1, 9),
    of=st.integers(2, 9),
    data=st.data(),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_places_give_back_every_bit_in_the_bytes_of_the_formula(shape, dtype, keep, of, data):
    keep = min(keep, of)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    array = thinned(drawn(shape, dtype, data.draw(st.floats(0, 1))), keep, of, axis)
    sparse = compress(array, NM(keep, of, axis))
    places = keep * ceil(shape[axis] / of) * prod(np.delete(shape, axis))
    assert same_bits(decompress(sparse), array)
    assert sparse.nbytes == places * array.itemsize + ceil(places * ceil(log2(of)) / 8)
    check_sparse(sparse)


def thinned(array: np.ndarray, keep: int, of: int, axis: int) -> np.ndarray:
    """Zeroes what is set beyond the first `keep` of every `of`, one row at a time."""

    def row(values: np.ndarray) -> np.ndarray:
        values, seen = values.copy(), 0
        for i in range(len(values)):
            seen = 0 if i % of == 0 else seen
            if values[i : i + 1].tobytes() != bytes(array.itemsize):
                seen += 1
                if seen > keep:
                    values[i] = 0
        return values

    if array.size == 0:
        return array
    rows = np.moveaxis(array, axis, -1)
    found = np.stack([row(each) for each in rows.reshape(-1, rows.shape[-1])])
    return np.ascontiguousarray(np.moveaxis(found.reshape(rows.shape), -1, axis))


def test_bits_and_places_are_laid_out_as_the_docstrings_say():
    array = np.array([[0, 1.5, 0, 0, 2], [0, 0, 3, 0, -0.0]], np.float32)
    sparse = compress(array, Bitmask())
    np.testing.assert_array_equal(sparse.positions, [0b10010010, 0b10])
    assert sparse.values.tobytes() == np.float32([1.5, 2, 3, -0.0]).tobytes()
    column = np.float32([0, 5, 0, 7, 0, 0, 9, 0])[:, None]
    sparse = compress(column, NM(2, 4))
    np.testing.assert_array_equal(sparse.values, [[[5, 7], [0, 9]]])
    np.testing.assert_array_equal(sparse.positions, [1 | 3 << 2 | 0 << 4 | 2 << 6])


def test_two_of_four_take_a_half_and_an_eighth_of_an_entry():
    weights = jax.random.normal(jax.random.key(0), (64, 24), jnp.bfloat16)
    pruned = jnp.where(pruning.nm_mask(jnp.abs(weights), keep=2, of=4, axis=0), weights, 0)
    sparse = compress(pruned, NM(2, 4))
    assert sparse.nbytes == 64 * 24 // 2 * 2 + 64 * 24 // 2 * 2 // 8
    np.testing.assert_array_equal(decompress(sparse), pruned)


def test_an_array_that_is_not_contiguous_is_taken_in_its_own_order():
    array = drawn((6, 8), "float32", 0.5)
    for view in (array.T, array[::2, ::-1], array.astype(">f4")):
        for form in (Bitmask(), NM(4, 4, -1)):
            np.testing.assert_array_equal(decompress(compress(view, form)), view)


@pytest.mark.parametrize(
    ("array", "form", "message"),
    [
        (np.ones((8, 2)), NM(2, 4), "2:4 has too few places: 4 of 4 neighbours along axis -2"),
        (np.float32(1), NM(2, 4), "has axis -2, but the array is of rank 0"),
        (np.ones(4), NM(4, 4), "of rank 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(array, form, message):
    with pytest.raises(ValueError, match=message):
        compress(array, form)


@pytest.mark.parametrize(("keep", "of"), [(0, 4), (5, 4), (1, 1), (2, 257)])
def test_forms_that_cannot_be_are_refused(keep, of):
    with pytest.raises(ValueError, match=f"got {keep} of {of}"):
        NM(keep, of)


SPARSE = compress(drawn((5, 6), "float32", 0.4), Bitmask())
PLACED = compress(thinned(drawn((5, 6), "float32", 1.0), 2, 4, -2), NM(2, 4))


@pytest.mark.parametrize(
    ("sparse", "changes", "message"),
    [
        (SPARSE, {"values": SPARSE.values[1:]}, r"w.values: expected float32\[\d+\]"),
        (SPARSE, {"positions": SPARSE.positions[1:]}, r"w.positions: expected uint8\[4\]"),
        (SPARSE, {"positions": SPARSE.positions.view(np.int8)}, "found int8"),
        (SPARSE, {"shape": (5, 600)}, r"expected uint8\[375\], found uint8\[4\]"),
        (PLACED, {"values": PLACED.values[:1]}, r"w.values: expected float32\[6, 2, 2\]"),
        (PLACED, {"positions": PLACED.positions[1:]}, r"w.positions: expected uint8\[6\]"),
        (PLACED, {"positions": 0 * PLACED.positions}, "places within a group must rise"),
    ],
)
def test_parts_that_disagree_are_named(sparse, changes, message):
    damaged = dataclasses.replace(sparse, **changes)
    with pytest.raises(ValueError, match=message):
        check_sparse(damaged, "w")
    with pytest.raises(ValueError, match=message):
        decompress_tree({"w": damaged})


def test_a_place_beyond_the_group_is_named():
    zero_and_three = np.uint8([0b1100_1100, 0b1100])
    damaged = dataclasses.replace(compress(np.eye(3), NM(2, 3)), positions=zero_and_three)
    with pytest.raises(ValueError, match="be below 3"):
        check_sparse(damaged)


@pytest.fixture(scope="module")
def network() -> dict:
    key = jax.random.key(0)
    shapes = {"up": (64, 40), "down": (40, 10), "dead": (30, 30)}
    params = {
        n: {"kernel": jax.random.normal(key, s), "bias": jnp.ones(s[1])} for n, s in shapes.items()
    }
    rules = [("up/.*l", 0.1), ("down/.*l", 0.99), ("dead/.*l", 0.0), (".*", None)]
    pruned = pruning.prune(params, 0.5, rules)
    mask = pruning.nm_mask(jnp.abs(params["up"]["kernel"]), keep=2, of=4, axis=0)
    placed = {"kernel": jnp.where(mask, params["up"]["kernel"], 0).astype(jnp.bfloat16)}
    return pruned | {"placed": placed, "count": jnp.int32(3), "key": jax.random.key(1)}


def test_each_leaf_is_in_the_smallest_form_and_dense_where_that_is_smallest(network):
    packed = compress_tree(network)
    flat = jax.tree_util.tree_flatten_with_path(packed, is_leaf=is_sparse)[0]
    forms = {tree.path_name(p): str(x.form) if is_sparse(x) else "dense" for p, x in flat}
    assert forms == {
        "count": "dense",
        "dead/bias": "dense",
        "dead/kernel": "bitmask",
        "down/bias": "dense",
        "down/kernel": "dense",
        "key": "dense",
        "placed/kernel": "2:4",
        "up/bias": "dense",
        "up/kernel": "bitmask",
    }
    assert packed["dead"]["kernel"].nbytes == ceil(900 / 8)
    assert packed["up"]["kernel"].nbytes == 2560 // 8 + 256 * 4
    assert tree.nbytes(packed["up"]) == 320 + 1024 + 40 * 4
    back = decompress_tree(packed)
    for path, leaf in tree.leaves(network).items():
        assert jnp.array_equal(tree.leaves(back)[path], leaf), path


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_arrays_and_a_schema_in_json_stand_for_the_tree(network, dtype):
    packed = compress_tree({**network, "x": drawn((40, 3), dtype, 0.2)})
    arrays, schema = to_arrays(packed)
    assert "dead/kernel.values" not in arrays  # it is empty, which orbax would refuse
    assert not any(is_sparse(array) for array in arrays.values())
    found = from_arrays(arrays, json.loads(json.dumps(schema)))
    flat = jax.tree_util.tree_flatten_with_path(packed, is_leaf=is_sparse)[0]
    for path, leaf in ((tree.path_name(p), leaf) for p, leaf in flat):
        if not is_sparse(leaf):
            assert found[path] is leaf
            continue
        assert (found[path].form, found[path].shape) == (leaf.form, leaf.shape)
        assert same_bits(decompress(found[path]), decompress(leaf))


@pytest.mark.parametrize("form", [Bitmask(), NM(1, 2, 0)])
@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_an_empty_leaf_needs_no_arrays(form, shape):
    arrays, schema = to_arrays({"w": compress(np.zeros(shape, "bfloat16"), form)})
    assert arrays == {}
    assert same_bits(decompress(from_arrays(arrays, schema)["w"]), np.zeros(shape, "bfloat16"))


FIELDS = {"form": "bitmask", "shape": [5, 6], "dtype": "float32"}
PARTS = {"w.positions": SPARSE.positions, "w.values": SPARSE.values}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "csr"}, "the form 'csr' is unknown"),
        ({"form": ["nm"]}, "is unknown"),
        ({"form": "nm"}, "KeyError"),
        ({"form": "nm", "keep": 2.0, "of": 4, "axis": 0}, "not whole numbers"),
        ({"form": "nm", "keep": 0, "of": 4, "axis": 0}, "got 0 of 4"),
        ({"form": "nm", "keep": 2, "of": 4, "axis": 2}, "has axis 2"),
        ({"shape": [5, 7]}, r"w.positions: expected uint8\[5\], found uint8\[4\]"),
        ({"shape": [5, -6]}, "no array is"),
        ({"shape": [5, True]}, "no array is"),
        ({"shape": "56"}, "no array is"),
        ({"shape": 30}, "TypeError"),
        ({"shape": [10**30, 0]}, "no array is"),
        ({"shape": [1] * 33}, "no array is"),
        ({"dtype": "float31"}, "TypeError"),
        ({"dtype": "float16"}, "w.values: expected float16, found float32"),
        ({"dtype": "V1000000000"}, "no array is"),
    ],
)
def test_a_schema_that_lies_is_refused_by_leaf(changes, message):
    assert same_bits(decompress(from_arrays(PARTS, {"w": FIELDS})["w"]), decompress(SPARSE))
    with pytest.raises(ValueError, match=message) as raised:
        from_arrays(PARTS, {"w": {**FIELDS, **changes}})
    assert "w" in str(raised.value)


def test_a_schema_that_is_no_object_or_lacks_its_arrays_is_refused():
    with pytest.raises(ValueError, match="'w': no leaf is 7"):
        from_arrays(PARTS, {"w": 7})
    with pytest.raises(ValueError, match=r"w.positions: expected uint8\[4\], found uint8\[0\]"):
        from_arrays({"w.values": SPARSE.values}, {"w": FIELDS})
    with pytest.raises(ValueError, match="'w' is both dense and"):
        from_arrays({**PARTS, "w": SPARSE.values}, {"w": FIELDS})


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two arrays have the name 'w.values'; rename a leaf"):
        to_arrays({"w": SPARSE, "w.values": np.ones(1)})


def test_a_sparse_is_a_node_of_the_tree():
    doubled = jax.tree.map(lambda x: x, {"w": SPARSE})["w"]
    assert isinstance(doubled, Sparse)
    assert (doubled.form, doubled.shape) == (SPARSE.form, SPARSE.shape)
    assert tree.paths({"w": SPARSE}) == ["w/positions", "w/values"]
