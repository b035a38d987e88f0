"""Selection against a stable argsort, on one device, under vmap and on meshes."""

import functools
import re

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wlab import pruning
from wlab.pruning.order import score_at

SEARCHES = {
    "bisection": pruning.bisection,
    "bracket": pruning.bracket,
    "near": pruning.near(jnp.float32(0.5)),
}
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 1.0, -1.0, np.inf, -np.inf, 3e38, -3e38, 0.5, 0.5]


@functools.cache
def compiled(name: str, search: str = "bisection"):
    return jax.jit(functools.partial(getattr(pruning, name), search=SEARCHES[search]))


def argsort_mask(scores: np.ndarray, k: int) -> np.ndarray:
    """The slow twin: k first entries of a stable descending sort, NaN before infinity."""
    flat = np.asarray(scores).astype(np.float64).ravel()
    order = np.lexsort((-np.where(np.isnan(flat), np.inf, flat), ~np.isnan(flat)))
    mask = np.zeros(flat.size, bool)
    mask[order[:k]] = True
    return mask.reshape(scores.shape)


tied_values = st.sampled_from(SPECIAL) | st.floats(width=32, allow_nan=False)


@pytest.mark.parametrize("search", SEARCHES)
@given(x=hnp.arrays(np.float32, (6, 11), elements=tied_values), k=st.integers(0, 66))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_exactly_k_are_kept_and_ties_go_to_the_lower_index(search, x, k):
    mask = compiled("topk_mask", search)(jnp.asarray(x), jnp.int32(k))
    np.testing.assert_array_equal(mask, argsort_mask(x, k))
    if k > 0:
        threshold = compiled("kth_threshold", search)(jnp.asarray(x), jnp.int32(k))
        assert threshold == np.sort(x.ravel())[::-1][k - 1]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (jnp.float32, ()),
        (jnp.float32, (5000,)),
        (jnp.float16, (100, 10)),
        (jnp.bfloat16, (3, 3, 8, 5)),
    ],
)
def test_every_rank_and_dtype(dtype, shape):
    rng = np.random.default_rng(0)
    for scale in (1, 1000):  # massive ties, few ties
        x = jnp.asarray(np.round(rng.standard_normal(shape) * scale) / 8, dtype)
        for k in {0, 1, x.size // 3, x.size - 1, x.size}:
            mask = compiled("topk_mask")(x, jnp.int32(k))
            np.testing.assert_array_equal(mask, argsort_mask(np.asarray(x), k))


def test_equal_scores_keep_the_first_k():
    np.testing.assert_array_equal(
        pruning.topk_mask(jnp.ones((2, 3)), 4), [[True, True, True], [True, False, False]]
    )


def test_k_outside_the_range_is_clipped():
    assert pruning.topk_mask(jnp.arange(4.0), 9).all()
    assert not pruning.topk_mask(jnp.arange(4.0), -1).any()


def test_nan_of_either_sign_ranks_above_infinity():
    x = jnp.array([np.inf, np.nan, 1.0, -np.nan, -np.inf], jnp.float32)
    np.testing.assert_array_equal(pruning.topk_mask(x, 2), [False, True, False, True, False])
    assert np.isnan(pruning.kth_threshold(x, 2))
    assert pruning.kth_threshold(x, 3) == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_are_in_the_order_of_all_scores_and_invert(dtype):
    word = np.uint16 if jnp.dtype(dtype).itemsize == 2 else np.uint32
    patterns = np.linspace(0, np.iinfo(word).max, 60_001).astype(word)
    x = patterns.view(np.dtype(dtype))
    with np.errstate(invalid="ignore"):  # bfloat16's isnan warns of signalling NaNs
        x = x[~np.isnan(x)]
    keys = np.asarray(pruning.ordered_keys(jnp.asarray(x))).astype(np.int64)
    wide = x.astype(np.float64)
    order = np.argsort(wide, kind="stable")
    np.testing.assert_array_equal(np.sign(np.diff(keys[order])), np.sign(np.diff(wide[order])))
    back = jax.vmap(lambda key: score_at(key, jnp.dtype(dtype)))(jnp.asarray(keys, jnp.uint32))
    np.testing.assert_array_equal(np.asarray(back).astype(np.float64), wide)


def test_counts_of_several_thresholds_in_one_reduction():
    keys = jnp.arange(24, dtype=jnp.uint32).reshape(2, 3, 4)
    thresholds = jnp.array([0, 5, 23, 24], jnp.uint32)
    np.testing.assert_array_equal(pruning.counts(keys, thresholds), [24, 19, 1, 0])
    jaxpr = str(jax.make_jaxpr(pruning.counts)(keys, thresholds))
    assert len(re.findall(r"= reduce\[", jaxpr)) == 1


def test_leaves_are_ranked_together_as_if_concatenated():
    rng = np.random.default_rng(1)
    leaves = [np.round(rng.standard_normal(s) * 4) / 4 for s in ((7,), (5, 4), (2, 3, 4), ())]
    flat = np.concatenate([leaf.ravel() for leaf in leaves])
    scores = [jnp.asarray(leaf, jnp.float32) for leaf in leaves]
    for k in (0, 9, 30, flat.size):
        masks = compiled("topk_masks", "bracket")(scores, jnp.int32(k))
        assert [mask.shape for mask in masks] == [leaf.shape for leaf in leaves]
        together = np.concatenate([np.asarray(mask).ravel() for mask in masks])
        np.testing.assert_array_equal(together, argsort_mask(flat, k))
    assert compiled("kth_threshold")(scores, jnp.int32(9)) == np.sort(flat)[-9]


def test_leaves_of_two_dtypes_are_ranked_by_value():
    scores = [jnp.array([1.0, 3.0], jnp.bfloat16), jnp.array([2.0, 3.0], jnp.float32)]
    masks = pruning.topk_masks(scores, 2)
    np.testing.assert_array_equal(np.stack(masks), [[False, True], [False, True]])


@pytest.mark.long
def test_large_arrays_are_bracketed_to_the_same_mask():
    x = jax.random.normal(jax.random.key(0), (1200, 1000))
    for values in (x, jnp.round(x * 8) / 8, jnp.where(jnp.abs(x) > 1, x, 0)):
        for k in (1, 240_000, 1_199_999):
            masks = [compiled("topk_mask", s)(values, jnp.int32(k)) for s in SEARCHES]
            assert jnp.sum(masks[0]) == k
            np.testing.assert_array_equal(masks[0], masks[1])
            np.testing.assert_array_equal(masks[0], masks[2])


def test_vmap_with_a_traced_k_equals_a_loop():
    x = jnp.round(jax.random.normal(jax.random.key(1), (4, 9, 13)) * 4) / 4
    ks = jnp.array([0, 5, 60, 117])
    many = jax.jit(jax.vmap(pruning.topk_mask))(x, ks)
    np.testing.assert_array_equal(many, [compiled("topk_mask")(x[i], ks[i]) for i in range(4)])
    for mask, values, k in zip(many, x, ks, strict=True):
        np.testing.assert_array_equal(mask, argsort_mask(np.asarray(values), int(k)))


def sharded(x: jax.Array, axis_type: AxisType, spec: P) -> jax.Array:
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    return jax.device_put(x, NamedSharding(mesh, spec))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_gives_the_mask_of_one_device(axis_type):
    for shape, spec in (((3, 16, 24), P(None, "x", "y")), ((2048,), P("x"))):
        x = jnp.round(jax.random.normal(jax.random.key(2), shape) * 4) / 4
        mask = jax.jit(pruning.topk_mask)(sharded(x, axis_type, spec), jnp.int32(500))
        np.testing.assert_array_equal(mask, argsort_mask(np.asarray(x), 500))
        assert mask.sharding.spec == spec


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_only_counts_cross_devices(axis_type):
    rows, columns = 512, 256
    x = sharded(jnp.ones((rows, columns)), axis_type, P("x", "y"))
    text = jax.jit(pruning.topk_mask).lower(x, jnp.int32(1000)).compile().as_text()
    gathered = [
        [int(n) for n in dims.split(",") if n]
        for line in text.splitlines()
        if re.search(r"= .*(all-gather|all-to-all|collective-permute)(-start)?\(", line)
        for dims in re.findall(r"[a-z]+\d*\[([\d,]*)\]", line.split("(%")[0])
    ]
    reduced = [line for line in text.splitlines() if re.search(r"= .*all-reduce(-start)?\(", line)]
    assert gathered + reduced, "the search does not communicate: the test reads the wrong text"
    assert sum(int(np.prod(dims)) for dims in gathered) <= rows + columns
    assert not any(f"[{rows},{columns}]" in line or "[128,128]" in line for line in reduced)


def test_inside_shard_map_over_replicated_leaves():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jnp.round(jax.random.normal(jax.random.key(4), (12, 10)) * 4) / 4
    inside = jax.shard_map(
        lambda x: pruning.topk_mask(x, 40), mesh=mesh, in_specs=P(), out_specs=P()
    )
    np.testing.assert_array_equal(jax.jit(inside)(x), argsort_mask(np.asarray(x), 40))


def test_inside_shard_map_each_device_ranks_its_own():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.random.normal(jax.random.key(5), (16, 10))
    inside = jax.shard_map(
        lambda x: pruning.topk_mask(x, 7), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    masks = np.asarray(jax.jit(inside)(x)).reshape(8, 2, 10)
    for mask, part in zip(masks, np.asarray(x).reshape(8, 2, 10), strict=True):
        np.testing.assert_array_equal(mask, argsort_mask(part, 7))


def test_nothing_sorts():
    jaxpr = str(jax.make_jaxpr(pruning.topk_mask)(jnp.ones((8, 8)), 3))
    assert not re.search(r"\b(sort|top_k|argsort)\b", jaxpr)


def test_integer_scores_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"not int32: cast them"):
        pruning.ordered_keys.__wrapped__(jnp.arange(4))


def test_more_scores_than_an_int32_counts_are_refused():
    big = [jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32)] * 2
    with pytest.raises(ValueError, match=r"2,147,483,648 scores .* Rank each leaf by itself"):
        jax.eval_shape(lambda scores: pruning.topk_masks(scores, 5), big)
