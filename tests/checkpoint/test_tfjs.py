"""TensorFlow.js models are joined from their shards, and no path leads out of their folder."""

import json
import os
import struct

import numpy as np
import pytest

from wlab.checkpoint.formats.tfjs import open_tfjs

RNG = np.random.default_rng(0)
F32 = RNG.standard_normal((3, 5)).astype(np.float32)
I32 = RNG.integers(-9, 9, (2, 2)).astype(np.int32)
F16 = RNG.standard_normal(3).astype(np.float16)
U8 = np.arange(8, dtype=np.uint8).reshape(2, 4)
U16 = np.uint16([0, 1, 40_000, 65_535])
AFFINE8 = {"dtype": "uint8", "scale": 0.1, "min": -1.7}
AFFINE16 = {"dtype": "uint16", "scale": 1.25e-5, "min": -0.37}

# Two groups; name, dtype, quantization and what stands in the shards.
GROUPS = [
    [
        ("conv/kernel", "float32", None, F32),
        ("on", "bool", None, np.uint8([1, 0, 2])),
        ("q8", "float32", AFFINE8, U8),
        ("i", "int32", None, I32),
    ],
    [
        ("q16", "float32", AFFINE16, U16),
        ("rounded", "int32", {"dtype": "uint8", "scale": 0.5, "min": -2.0}, U8),
        ("half", "float32", {"dtype": "float16"}, F16),
        ("plain half", "float16", None, F16),
        ("u8", "uint8", None, U8),
        ("scalar", "float32", None, np.array(3.5, np.float32)),
        ("empty", "float32", None, np.zeros((0, 4), np.float32)),
    ],
]


def entry(name, dtype, quantization, stored):
    quantized = {} if quantization is None else {"quantization": quantization}
    return {"name": name, "shape": list(stored.shape), "dtype": dtype} | quantized


def write(folder, cuts=((7, 60, 63), ()), **changed):
    """Cuts the bytes of each group into shards at the given places."""
    manifest = []
    for g, (weights, places) in enumerate(zip(GROUPS, cuts, strict=True)):
        data = b"".join(stored.tobytes() for *_, stored in weights)
        paths = []
        for i, (begin, end) in enumerate(zip((0, *places), (*places, len(data)), strict=True)):
            paths.append(f"group{g + 1}-shard{i + 1}")
            (folder / paths[-1]).write_bytes(data[begin:end])
        manifest.append({"paths": paths, "weights": [entry(*weight) for weight in weights]})
    fields = {"format": "layers-model", "modelTopology": {"layers": [1]}}
    fields |= {"weightsManifest": manifest} | changed
    (folder / "model.json").write_text(json.dumps(fields))
    return folder / "model.json"


def test_weights_are_joined_across_shards_and_groups(tmp_path):
    arrays = open_tfjs(write(tmp_path)).arrays
    assert list(arrays) == [name for group in GROUPS for name, *_ in group]
    expected = {
        "conv/kernel": F32,
        "on": np.array([True, False, True]),
        "i": I32,
        "half": F16.astype(np.float32),
        "plain half": F16,
        "u8": U8,
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name].read(), array, err_msg=name, strict=True)
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype.name, array.shape)
    assert arrays["on"].read().view(np.uint8).tolist() == [1, 0, 1]


def test_shards_of_one_byte_make_no_difference(tmp_path):
    whole = {name: lazy.read() for name, lazy in open_tfjs(write(tmp_path)).arrays.items()}
    total = sum(stored.nbytes for *_, stored in GROUPS[0])
    arrays = open_tfjs(write(tmp_path, (tuple(range(1, total)), (3, 3)))).arrays
    for name, array in whole.items():
        np.testing.assert_array_equal(arrays[name].read(), array, err_msg=name)


def test_quantized_weights_are_scaled_as_javascript_does(tmp_path):
    """In float64, rounded once; integers by `Math.round`, which takes halves upwards."""
    source = open_tfjs(write(tmp_path))
    q8 = [[np.float32(q * 0.1 + -1.7) for q in row] for row in U8.tolist()]
    np.testing.assert_array_equal(source.arrays["q8"].read(), q8)
    q16 = [np.float32(q * 1.25e-5 + -0.37) for q in U16.tolist()]
    np.testing.assert_array_equal(source.arrays["q16"].read(), q16)
    expected = np.int32([[-2, -1, -1, 0], [0, 1, 1, 2]])  # of -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5
    np.testing.assert_array_equal(source.arrays["rounded"].read(), expected, strict=True)


def test_the_codes_are_at_hand(tmp_path):
    source = open_tfjs(write(tmp_path))
    q8, q16, half = (source.arrays[name] for name in ("q8", "q16", "half"))
    assert (q8.encoding, q16.encoding, half.encoding) == ("uint8", "uint16", "float16")
    np.testing.assert_array_equal(q8.blocks(), U8)
    assert q16.blocks().tobytes() == U16.tobytes() and q16.nbytes == 8
    assert source.arrays["conv/kernel"].blocks is None


def test_the_rest_of_the_file_is_metadata(tmp_path):
    metadata = open_tfjs(write(tmp_path)).metadata
    assert metadata == {
        "format": "layers-model",
        "modelTopology": {"layers": [1]},
        "quantization": {
            "q8": {"scale": 0.1, "min": -1.7},
            "q16": {"scale": 1.25e-5, "min": -0.37},
            "rounded": {"scale": 0.5, "min": -2.0},
        },
    }


def test_a_nan_scale_is_read(tmp_path):
    weight = entry("w", "int32", {"dtype": "uint8", "scale": float("nan"), "min": 0}, U8)
    (tmp_path / "s").write_bytes(U8.tobytes())
    path = write(tmp_path, weightsManifest=[{"paths": ["s"], "weights": [weight]}])
    assert open_tfjs(path).arrays["w"].read().shape == (2, 4)


def group(paths=("s",), **changed):
    weight = {"name": "w", "shape": [2], "dtype": "float32"} | changed
    return {"paths": list(paths), "weights": [weight]}


AFFINE = {"dtype": "uint8", "scale": 1, "min": 0}
HOSTILE = {
    "no manifest": (None, "has no `weightsManifest`"),
    "a group that is a list": ([[]], "lacks its `paths` or `weights`"),
    "a group without paths": ([{"weights": []}], "lacks its `paths`"),
    "a weight that is text": ([{"paths": ["s"], "weights": ["w"]}], "a weight is malformed"),
    "a weight without a name": ([{"paths": ["s"], "weights": [{}]}], "a weight is malformed"),
    "a name that is a number": ([group(name=3)], "a weight is malformed"),
    "a shape that is a number": ([group(shape=2)], "a weight is malformed"),
    "a negative shape": ([group(shape=[-1, -2])], r"'w' has the shape \[-1, -2\]"),
    "a shape of truth": ([group(shape=[True, 2])], r"'w' has the shape \[True, 2\]"),
    "a huge shape": ([group(shape=[2**62, 2**62])], "'w' has the shape"),
    "a huge empty shape": ([group(shape=[0, 2**62])], "'w' has the shape"),
    "too many dimensions": ([group(shape=[1] * 10_000)], "'w' has the shape"),
    "a dtype that is not read": ([group(dtype="string")], "of a dtype that is not read: .*'w'"),
    "a dtype that is a list": ([group(dtype=[])], "of a dtype that is not read"),
    "a quantization not read": ([group(quantization={"dtype": "int4"})], "not read: .*int4"),
    "a quantization without scale": ([group(quantization={"dtype": "uint8"})], "malformed"),
    "a scale beyond float64": ([group(quantization=AFFINE | {"scale": 10**400})], "malformed"),
    "bool that is quantized": ([group(dtype="bool", quantization=AFFINE)], "not read"),
    "too few bytes": ([group(shape=[3])], r"take 12 bytes, its 1 shards from 's' on have 8"),
    "too many bytes": ([group(shape=[1])], "take 4 bytes"),
    "no shards": ([group(paths=())], "take 8 bytes, its 0 shards"),
    "a weight twice": ([group(), group(paths=("t",))], "'w' occurs twice"),
    "a shard twice": ([group(paths=("s", "./s"), shape=[4])], "shard 's' is named twice"),
    "a missing shard": ([group(paths=("gone",))], "names 'gone', but there is no such file"),
    "a folder as a shard": ([group(paths=(".",))], "no such file"),
    "a path upwards": ([group(paths=("../s",))], "'../s', which is not below its own folder"),
    "a path up and down": ([group(paths=("sub/../s",))], "which is not below its own folder"),
    "a path upwards as on Windows": ([group(paths=("..\\s",))], "not below its own folder"),
    "an absolute path": ([group(paths=("/etc/passwd",))], "not below its own folder"),
    "an absolute path on Windows": ([group(paths=("C:\\s",))], "not below its own folder"),
    "a link out of the folder": ([group(paths=("link",))], "a link that leads out of its folder"),
    "a linked folder": ([group(paths=("up/s",))], "a link that leads out of its folder"),
    "a link to itself": ([group(paths=("loop",))], "'loop'"),
    "an empty path": ([group(paths=("",))], "'' is not the name of a file"),
    "a path that is a number": ([group(paths=(3,))], "'3' is not the name of a file"),
    "a path with a zero byte": ([group(paths=("s\0",))], "is not the name of a file"),
    "a path that is too long": ([group(paths=("s" * 5000,))], "names 's"),
    "a path of half a character": ([group(paths=("\ud800",))], "names '"),
}


@pytest.mark.parametrize(("manifest", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_model_is_refused(tmp_path, manifest, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path / "s", folder / "s", folder / "t"):
        place.write_bytes(struct.pack("<2f", 1, 2))
    os.symlink(tmp_path / "s", folder / "link")
    os.symlink(tmp_path, folder / "up")
    os.symlink("loop", folder / "loop")
    path = write(folder, weightsManifest=manifest)
    with pytest.raises(ValueError, match=message) as error:
        open_tfjs(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"[]", "is a JSON list, not an object"),
    ],
)
def test_what_is_no_object_is_refused(tmp_path, content, message):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"model.json {message}"):
        open_tfjs(tmp_path / "model.json")


def test_a_link_within_the_folder_is_followed(tmp_path):
    path = write(tmp_path)
    (tmp_path / "group1-shard1").rename(tmp_path / "elsewhere")
    os.symlink("elsewhere", tmp_path / "group1-shard1")
    np.testing.assert_array_equal(open_tfjs(path).arrays["conv/kernel"].read(), F32)
