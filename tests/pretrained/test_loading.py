"""Plans, policies and proofs: nothing is padded, cut off, skipped or guessed in silence."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from wlab import tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.pretrained import NameMap, export, for_layers, load, move, plan, prefixed
from wlab.pretrained.ops import Split, Transpose

RNG = np.random.default_rng(0)
MAP = NameMap(
    (
        move("emb.weight", "embed/embedding"),
        *for_layers(
            2,
            [
                move("h.{i}.w", "block_{i}/kernel", Transpose()),
                move("h.{i}.qk", ["block_{i}/q", "block_{i}/k"], Split((2, 3))),
            ],
        ),
    ),
    constants={"positions": np.arange(4)},
    ties={"head.weight": "emb.weight"},
    needless=("counter.*",),
)
THEIRS = {
    "emb.weight": RNG.normal(size=(5, 4)).astype(np.float32),
    **{f"h.{i}.w": RNG.normal(size=(3, 4)).astype(np.float32) for i in range(2)},
    **{f"h.{i}.qk": RNG.normal(size=(5,)).astype(np.float32) for i in range(2)},
}


def like(**shapes: tuple[int, ...]) -> dict:
    block = {"kernel": (4, 3), "q": (2,), "k": (3,)} | shapes
    leaf = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
        block,
        is_leaf=lambda s: isinstance(s, tuple),
    )
    embedding = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    return {"embed": {"embedding": embedding}, "block_0": leaf, "block_1": leaf}


@pytest.fixture
def file(tmp_path):
    def write(**changes: np.ndarray | None) -> Path:
        arrays = {n: a for n, a in (THEIRS | changes).items() if a is not None}
        save_safetensors(tmp_path / "w.safetensors", arrays)
        return tmp_path / "w.safetensors"

    return write


def test_every_leaf_is_what_the_map_says(file):
    params = tree.leaves(load(file(), MAP, like()).params)
    np.testing.assert_array_equal(params["embed/embedding"], THEIRS["emb.weight"])
    for i in range(2):
        np.testing.assert_array_equal(params[f"block_{i}/kernel"], THEIRS[f"h.{i}.w"].T)
        np.testing.assert_array_equal(params[f"block_{i}/q"], THEIRS[f"h.{i}.qk"][:2])
        np.testing.assert_array_equal(params[f"block_{i}/k"], THEIRS[f"h.{i}.qk"][2:])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_file_to_tree_to_file_is_byte_identical(file, tmp_path, dtype):
    extra = {"positions": np.arange(4), "head.weight": THEIRS["emb.weight"].astype(dtype)}
    path = file(**{n: a.astype(dtype) for n, a in THEIRS.items()}, **extra)
    source = open_source(path)
    arrays = export(load(path, MAP, like()).params, MAP, names=source.arrays)
    save_safetensors(tmp_path / "again.safetensors", arrays)
    again = open_source(tmp_path / "again.safetensors")
    assert set(again.arrays) == set(source.arrays)
    for name, array in source.arrays.items():
        copy = again.arrays[name]
        assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
        assert copy.read().tobytes() == array.read().tobytes()


def test_a_plan_reads_headers_only_and_tells_what_would_happen(file):
    path = file(**{"h.1.w": None, "odd": np.ones(2), "counter": np.int64(3)})
    found = plan(open_source(path).arrays, MAP, like(q=(1,)))
    status = {line.path or line.theirs: line.status for line in found.lines}
    assert status["block_1/kernel"] == "missing"
    assert status["block_0/q"] == "mismatched"
    assert (status["odd"], status["counter"]) == ("unexpected", "ignored")
    assert found.count("loaded") == 4
    assert "4 loaded, 2 mismatched, 1 missing, 1 ignored, 1 unexpected" in str(found)
    with pytest.raises(ValueError, match=r"h\.1\.w.*array 'odd' \(float64\[2\]\) has no place"):
        found.refuse_faults("it")


@pytest.mark.parametrize(
    ("changes", "shapes", "said"),
    [
        ({"h.0.w": None}, {}, r"leaf 'block_0/kernel' \[4,3\] is missing \(no h.0.w\)"),
        ({"odd": np.ones(2, np.float32)}, {}, "array 'odd' .* has no place in the map"),
        ({}, {"kernel": (4, 2)}, r"'block_0/kernel' is float32\[4,3\], \[4,2\] is wanted"),
        ({}, {"more": (1,)}, r"'block_0/more' \[1\] is missing \(no move makes it\)"),
        ({"h.0.qk": np.ones(6, np.float32)}, {}, "axis 0 of .6,. is not 5 long"),
        ({"positions": np.ones(4)}, {}, "'positions' is not the constant"),
        (
            {"head.weight": np.ones((5, 4), np.float32)},
            {},
            "'head.weight' differs from 'emb.weight'",
        ),
    ],
)
def test_what_does_not_fit_is_named(file, changes, shapes, said):
    with pytest.raises(ValueError, match=said):
        load(file(**changes), MAP, like(**shapes))


def test_policies_say_what_happens_instead(file):
    path = file(**{"h.0.w": None, "odd": np.ones(2, np.float32)})
    start = jax.tree.map(lambda s: jnp.full(s.shape, 7.0), like(q=(1,), k=(5,)))
    loaded = load(
        path,
        MAP,
        start,
        policies=[
            ("block_0/kernel", "init"),
            (".*/q", "slice"),
            (".*/k", "zero"),
            (".*", "error"),
        ],
        ignore=["od."],
    )
    params = tree.leaves(loaded.params)
    assert (params["block_0/kernel"] == 7).all()
    np.testing.assert_array_equal(params["block_1/q"], THEIRS["h.1.qk"][:1])
    np.testing.assert_array_equal(params["block_1/k"], np.zeros(5))
    np.testing.assert_array_equal(params["block_1/kernel"], THEIRS["h.1.w"].T)
    assert loaded.plan.count("mismatched") == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policies": [("heads?/.*", "init"), (".*", "error")]}, "matches no leaf"),
        ({"ignore": ["odd"]}, "'odd' matches no array without a leaf"),
        ({"policies": [(".*/kernel", "slice"), (".*", "error")]}, "no slice"),
    ],
)
def test_options_that_do_nothing_or_cannot_be_are_refused(file, options, said):
    with pytest.raises(ValueError, match=said):
        load(file(), MAP, like(kernel=(4, 9)), **options)


def test_a_leaf_that_shall_keep_its_value_must_have_one(file):
    with pytest.raises(ValueError, match="has only its shape: pass initialized parameters"):
        load(file(**{"h.0.w": None}), MAP, like(), policies=[(".*", "init")])


SQUARE = NameMap((move("w", "kernel", Transpose()),))


@pytest.mark.parametrize(
    ("shape", "axes", "ambiguous"),
    [((3, 3), (), True), ((3, 4), (), False), ((4, 3, 1, 1), (2, 3, 1, 0), False)],
)
def test_a_square_kernel_needs_a_proof_of_its_transposition(tmp_path, shape, axes, ambiguous):
    weight = RNG.normal(size=shape).astype(np.float32)
    save_safetensors(tmp_path / "w.safetensors", {"w": weight})
    name_map = NameMap((move("w", "kernel", Transpose(axes)),))
    transposed = weight.transpose(axes or None)
    target = {"kernel": jax.ShapeDtypeStruct(transposed.shape, jnp.float32)}
    if not ambiguous:
        load(tmp_path / "w.safetensors", name_map, target)
        return
    with pytest.raises(ValueError, match=r"no shape proves the transposition of \['kernel'\]"):
        load(tmp_path / "w.safetensors", name_map, target)

    def right(params: dict) -> bool:
        return bool(jnp.allclose(jnp.ones(3) @ params["kernel"], weight.sum(1)))

    load(tmp_path / "w.safetensors", name_map, target, probe=right)
    with pytest.raises(ValueError, match="does not give the outputs"):
        load(tmp_path / "w.safetensors", NameMap((move("w", "kernel"),)), target, probe=right)


def test_leaves_are_cast_and_placed_on_demand(file):
    devices = jax.devices()
    loaded = load(
        file(),
        MAP,
        like(),
        dtype=jnp.bfloat16,
        place=lambda path, x: jax.device_put(x, devices[1 + ("block" in path)]),
    )
    params = tree.leaves(loaded.params)
    assert params["embed/embedding"].devices() == {devices[1]}
    assert params["block_0/q"].devices() == {devices[2]}
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype(jnp.bfloat16)}


def test_progress_ends_at_the_bytes_of_the_file(file):
    seen: list[int] = []
    load(file(), MAP, like(), report=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == sum(a.nbytes for a in THEIRS.values())


def test_a_prefix_is_put_before_every_name(file):
    path = file(**dict.fromkeys(THEIRS), **{f"net.{n}": a for n, a in THEIRS.items()})
    params = load(path, prefixed(MAP, "net."), like()).params
    np.testing.assert_array_equal(params["embed"]["embedding"], THEIRS["emb.weight"])


def test_a_map_has_one_place_for_each_name():
    with pytest.raises(ValueError, match="array 'w' stands in 2 places"):
        NameMap((move("w", "a"), move("w", "b")))
    with pytest.raises(ValueError, match="leaf 'a' stands in 2 places"):
        NameMap((move("w", "a"), move("v", "a")))


def test_export_refuses_what_the_map_does_not_know(file):
    params = load(file(), MAP, like()).params
    with pytest.raises(ValueError, match="makes no array 'odd'"):
        export(params, MAP, names=["odd"])
    with pytest.raises(ValueError, match="'extra' is in the map or in the tree, but not in both"):
        export(params | {"extra": jnp.ones(1)}, MAP)
