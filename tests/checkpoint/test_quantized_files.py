"""Quantized leaves go into files and come back bit for bit, by a schema that the file carries."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from wlab import checkpoint, quantization, tree
from wlab.checkpoint.formats.gguf_blocks import decode
from wlab.checkpoint.packed import load_packed, save_packed
from wlab.quantization import Codebook, Format, Integers, QTensor, presets
from wlab.quantization.files import from_arrays, planned_bytes, planned_parts, to_arrays
from wlab.quantization.format_fields import format_fields, format_of
from wlab.quantization.gguf_blocks import gguf_blocks, gguf_encoding
from wlab.quantization.qtensor import check

FIXED = {name: x for name, x in vars(presets).items() if isinstance(x, Format)}
MADE = {
    name: x()
    for name, x in vars(presets).items()
    if isinstance(x, partial) and not name.startswith("_") and name != "binary"
}
GROUPED = {
    **{f"int4 by {n}": quantization.int4(group_size=n, scale_dtype="float16") for n in (1, 5, 40)},
    "int3, short bytes": quantization.int3(group_size=16, scale_dtype="bfloat16"),
    "int5, zero points": quantization.int5(symmetric=False, group_size=16),
    "fp8, powers": quantization.presets.fp8_e4m3(group_size=16, scale_dtype="float8_e8m0fnu"),
    "blocks": quantization.int8(axis=(-2, -1), group_size=(16, 4)),
    "minimum": Format(Integers(4, symmetric=False, zero="minimum"), -2, 32, "float16"),
    "shared": Format(Codebook((-1.0, 0.0, 0.25, 1.0), "shared 2 bits", end=1.5), axis=None),
    "binary": presets.binary(group_size=20),
    "one scale": quantization.int4(axis=None),
}
FORMATS = FIXED | MADE | GROUPED
SHAPE = (40, 70)  # no group size of a preset divides either


def made(format: Format, shape: tuple[int, ...], dtype: str, seed: int = 0) -> QTensor:
    """A QTensor of random bits, made without quantizing: files keep any."""
    rng = np.random.default_rng(seed)

    def part(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(rng.bytes(nbytes), dtype).reshape(shape)

    parts = {name: part(*planned) for name, planned in planned_parts(format, shape).items()}
    none = dict.fromkeys(("scale", "zero_point", "outer"))
    return QTensor(**none | parts, format=format, length=shape[-1], dtype=dtype)


def assert_same(found: QTensor, wanted: QTensor) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def test_parts_that_are_planned_are_those_that_quantize_makes():
    planned = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    fixed = ("nvfp4", "ggml_q5_1", "ocp_mxfp6_e2m3", "float16", "bnb_nf4")
    for format in (*GROUPED.values(), *(FIXED[name] for name in fixed)):
        if format.grid.keeps_zero or not format.groups(SHAPE):
            q = jax.eval_shape(partial(quantization.quantize, format=format), planned)
            check(q)
            assert planned_bytes(format, SHAPE) == tree.nbytes(q), format
            found = {n: getattr(q, n) for n in ("codes", "scale", "zero_point", "outer")}
            shapes = {n: (x.shape, x.dtype.name) for n, x in found.items() if x is not None}
            assert planned_parts(format, SHAPE) == shapes, format


def test_every_format_comes_back_from_a_file_bit_for_bit(tmp_path):
    path = tmp_path / "w.safetensors"
    leaves = {name: made(f, SHAPE, "bfloat16", i) for i, (name, f) in enumerate(FORMATS.items())}
    leaves |= {"vector": made(FORMATS["int4 by 5"], (11,), "float16")}
    leaves |= {"stack": made(FORMATS["int3, short bytes"], (2, 20, 3), "float32")}
    plain = {"norm": np.arange(3, dtype=np.float32), "step": np.int32([7])}
    save_packed(path, *to_arrays({"deep": leaves, **plain}))
    found = from_arrays(*load_packed(path))
    assert set(found) == {*(f"deep/{name}" for name in leaves), *plain}
    for name, wanted in leaves.items():
        assert_same(found[f"deep/{name}"], wanted)
    for name, array in plain.items():
        np.testing.assert_array_equal(found[name], array)
    theirs = safetensors.numpy.load_file(path)  # any reader reads the arrays
    assert theirs["deep/nvfp4.scale"].dtype == np.uint8
    assert theirs["deep/ggml_q4_0.scale"].dtype == np.float16


def test_what_the_file_holds_dequantizes_to_what_was_quantized(tmp_path):
    x = jax.random.normal(jax.random.key(0), (40, 6))
    quantize = jax.jit(quantization.quantize, static_argnames="format")
    dequantize = jax.jit(quantization.dequantize)
    q = quantize(x, FORMATS["int5, zero points"])
    save_packed(tmp_path / "w.safetensors", *to_arrays({"w": q}))
    found = from_arrays(*load_packed(tmp_path / "w.safetensors"))["w"]
    np.testing.assert_array_equal(dequantize(found), dequantize(q))


def test_orbax_keeps_the_arrays_with_the_schema_as_recipe_and_the_tree_itself(tmp_path):
    quantized = {"w": made(FORMATS["nvfp4"], SHAPE, "float32")}
    arrays, schema = to_arrays(quantized)
    checkpoint.save(tmp_path / "arrays", 0, arrays, recipe={"packed": schema})
    restored = checkpoint.restore(tmp_path / "arrays", arrays)
    found = from_arrays(restored.state, restored.recipe["packed"])
    checkpoint.save(tmp_path / "tree", 0, quantized)
    whole = checkpoint.restore(tmp_path / "tree", quantized).state
    assert_same(found["w"], quantized["w"])
    assert_same(whole["w"], quantized["w"])


def test_an_empty_leaf_has_no_arrays_and_comes_back(tmp_path):
    q = made(quantization.int8(), (0, 4), "float32")
    arrays, schema = to_arrays({"w": q})
    assert "w.codes" not in arrays
    assert_same(from_arrays(arrays, schema)["w"], q)


@pytest.mark.parametrize(
    ("shape", "bits"),
    [  # 4 + 16 · groups / inputs; of SmolLM2-135M's layers, outputs made few
        ((576, 96), 4 + 16 * 5 / 576),
        ((1536, 96), 4 + 16 / 128),
        ((576, 192), 4 + 16 * 5 / 576),
    ],
)
def test_int4_in_groups_of_128_takes_its_bits_on_disk(tmp_path, shape, bits):
    path = tmp_path / "w.safetensors"
    format = quantization.int4(group_size=128, scale_dtype="float16")
    save_packed(path, *to_arrays({"kernel": made(format, shape, "float32")}))
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert 8 * (path.stat().st_size - header) / np.prod(shape) == pytest.approx(bits, rel=1e-9)
    assert bits < 4.2
    schema = load_packed(path)[1]["kernel"]
    last = {576: 64, 1536: 128}[shape[0]]
    assert schema["groups"] == [{"axis": 0, "size": 128, "last": last}]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_comes_back_from_json_equal(name):
    text = json.dumps(format_fields(FORMATS[name]))
    assert format_of(json.loads(text)) == FORMATS[name]


GOOD = FORMATS["int5, zero points"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"kind": "lattice"}}, "the kind of grid 'lattice' is unknown; integers, floats"),
        ({"grid": []}, "the kind of grid 'None' is unknown"),
        ({"axis": 1.0}, "Format.axis cannot be 1.0"),
        ({"axis": True}, "Format.axis cannot be True"),
        ({"axis": [0, "1"]}, "Format.axis cannot be"),
        ({"outer": 1}, "Format.outer cannot be 1"),
        ({"group_size": 0}, "group_size must be at least 1"),
        ({"scale_dtype": "float64"}, "scale_dtype must be in"),
        ({"new": 1}, "a format has the fields"),
        ({"grid": {**format_fields(GOOD)["grid"], "bits": 4.0}}, "Integers.bits cannot be 4.0"),
        ({"grid": {**format_fields(GOOD)["grid"], "bits": 9}}, "bits must be 2 to 8"),
        ({"grid": {"kind": "integers"}}, "Integers has the fields"),
    ],
)
def test_a_format_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        format_of({**format_fields(GOOD), **change})


def test_a_file_that_lies_is_refused_by_leaf():
    arrays, schema = to_arrays({"a/w": made(GOOD, SHAPE, "float32")})
    fields = schema["a/w"]

    def refused(match: str, *, less: str = "", more: dict | None = None, **changed: object) -> None:
        kept = {n: x for n, x in arrays.items() if n != less} | (more or {})
        with pytest.raises(ValueError, match=match):
            from_arrays(kept, {"a/w": {**fields, **changed}})

    refused("'a/w' was written by version 2 of the schema; this wlab reads version 1", version=2)
    refused(r"a/w.scale is missing: int5 .* takes codes, scale, zero_point", less="a/w.scale")
    refused(r"a/w.codes: expected uint8\[40,.45\], found", shape=[40, 72])
    refused(r"a/w.codes: expected", more={"a/w.codes": arrays["a/w.codes"][:-1]})
    refused(r"a/w.zero_point: expected uint8", more={"a/w.zero_point": np.ones((3, 70), "int8")})
    refused(r"a/w.outer: expected nothing", more={"a/w.outer": np.ones((1, 1), np.float32)})
    refused("'a/w' is both plain and", more={"a/w": np.ones(2)})
    refused("not a quantized leaf", form="bitmask")
    refused("no array has the shape", shape=[40, -1])
    refused("no array has the shape", shape=[2**60, 70])
    refused("int8 is not floating point", dtype="int8")
    refused("its groups are not", groups=[])
    refused("the fields|its fields", format={})
    refused("no quantized leaf has this schema", dtype="no dtype")
    with pytest.raises(ValueError, match="not a quantized leaf"):
        from_arrays(arrays, {"a/w": [1]})


def test_codes_of_another_format_are_refused_before_anything_is_written(tmp_path):
    q = made(GOOD, SHAPE, "float32")
    with pytest.raises(ValueError, match="w/codes: expected"):
        save_packed(tmp_path / "w.safetensors", *to_arrays({"w": replace(q, length=69 * 2)}))
    for part in ("codes", "outer"):  # an outer scale that this format lacks, too
        with pytest.raises(ValueError, match=rf"two arrays have the name 'w.{part}'"):
            to_arrays({"w": q, f"w.{part}": np.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_quantizing_twice_is_refused_by_leaf():
    q = {"w": made(GOOD, SHAPE, "float32")}
    with pytest.raises((TypeError, ValueError), match=r"w.*(uint8|codes)"):
        quantization.quantize_tree(q, [(".*", GOOD)])


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_packed(path, *to_arrays({"w": made(GOOD, SHAPE, "float32")}))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="the file has"):
        load_packed(path)


OFFSETS = {"q4_0": -8, "q4_1": 0, "q5_0": -16, "q5_1": 0, "q8_0": -128}
BITS = {"q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q8_0": 8.5}


def codes_of(q: QTensor) -> np.ndarray:
    """Unpacked anew: bits of a row, the lowest first."""
    width = q.format.grid.bits
    bits = np.unpackbits(np.asarray(q.codes), axis=-1, bitorder="little")
    bits = bits[..., : q.length * width].reshape(*q.shape, width)
    return (bits * 2 ** np.arange(width)).sum(-1)


def in_halves(q: QTensor, seed: int) -> QTensor:
    """The same codes under scales and minima that are numbers."""
    rng = np.random.default_rng(seed)
    scale = rng.standard_normal(q.scale.shape).astype(np.float16)
    minimum = None if q.zero_point is None else rng.standard_normal(scale.shape).astype(np.float16)
    return replace(q, scale=scale, zero_point=minimum)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("name", BITS)
def test_ggml_s_blocks_hold_the_very_codes(name, axis):
    format = replace(FIXED[f"ggml_{name}"], axis=axis)
    q = in_halves(made(format, (64, 96), "float32"), 1)
    along = -1 if axis == -1 else 0
    scales, minima = (
        0 if x is None else np.repeat(x.astype(np.float32), 32, axis=along)
        for x in (q.scale, q.zero_point)
    )
    wanted = (codes_of(q) + OFFSETS[name]).astype(np.float32) * scales + minima
    blocks = gguf_blocks(q)
    assert 8 * blocks.nbytes / wanted.size == BITS[name]
    found = decode(blocks, gguf_encoding(format))
    np.testing.assert_array_equal(found, wanted if axis == -1 else wanted.T)


def test_rows_of_codes_and_scales_move_alike():
    format = replace(FIXED["ggml_q5_1"], axis=-2)
    q = in_halves(made(format, (32, 6), "float32"), 1)
    order = np.array([3, 0, 5, 1, 2, 4])
    moved = gguf_blocks(q, to_rows=lambda x: x.T[order])
    np.testing.assert_array_equal(moved, gguf_blocks(q)[order])


def test_what_ggml_has_no_blocks_for_is_refused_by_leaf():
    q4 = FIXED["ggml_q4_0"]
    assert gguf_encoding(quantization.int4()) is None
    assert gguf_encoding(quantization.int8(axis=None)) is None

    def refused(format: Format, shape: tuple[int, ...], match: str, **options: object) -> None:
        with pytest.raises(ValueError, match=match):
            gguf_blocks(made(format, shape, "float32"), name="up", **options)

    refused(quantization.int4(), (32, 2), "up is int4 .*, which ggml lacks; Q4_0, Q4_1")
    refused(q4, (2, 40), "up has 40 inputs, not whole Q4_0 blocks of 32")
    refused(replace(q4, axis=-2), (2, 32, 2), "up has 3 axes and groups along axis 1")
    refused(q4, (64, 32), "groups do not run along the rows", to_rows=np.transpose)
