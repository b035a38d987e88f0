"""flax's files are read and written as flax does, and damaged ones are refused."""

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization

from wlab.checkpoint.formats import flax_msgpack_writing
from wlab.checkpoint.formats.flax_msgpack import open_msgpack
from wlab.checkpoint.formats.flax_msgpack_writing import save_msgpack

DTYPES = ["bool", "int4", "uint8", "int16", "int64", "float16", "float32", "float64", "complex64"]
DTYPES += ["bfloat16", "float8_e4m3fn", "float8_e5m2"]


def array(dtype, shape=(3, 4)):
    return np.random.default_rng(0).integers(0, 2, shape).astype(dtype)


def nested():
    return {
        "params": {"Dense_0": {"kernel": array("float32"), "bias": jnp.ones(4, jnp.bfloat16)}},
        "scalar": np.zeros((), np.int32),
        "empty": np.zeros((0, 3), np.float32),
    }


def same(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_and_written(tmp_path, dtype):
    expected = array(dtype)
    (tmp_path / "w.msgpack").write_bytes(serialization.to_bytes({"a": {"w": expected}}))
    lazy = open_msgpack(tmp_path / "w.msgpack").arrays["a/w"]
    assert (lazy.dtype, lazy.shape, lazy.nbytes) == (dtype, (3, 4), expected.nbytes)
    same(lazy.read(), expected)
    save_msgpack(tmp_path / "v.msgpack", {"a": {"w": expected}})
    raw = (tmp_path / "v.msgpack").read_bytes()
    same(serialization.msgpack_restore(raw)["a"]["w"], expected)
    same(open_msgpack(tmp_path / "v.msgpack").arrays["a/w"].read(), expected)


def test_a_tree_is_written_as_flax_restores_it(tmp_path):
    tree = nested() | {"list": [array("int8").T, array(">f4")[::2]]}
    save_msgpack(tmp_path / "w.msgpack", tree)
    target = jax.tree.map(np.zeros_like, tree)
    found = serialization.from_bytes(target, (tmp_path / "w.msgpack").read_bytes())
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, found, tree)


def test_what_is_no_array_is_in_the_metadata(tmp_path):
    rest = {"step": 3, "big": 2**40, "negative": -5, "rate": 0.5, "text": "x", "no": None}
    rest |= {"flag": True, "pair": [1, 2], "complex": 1 + 2j}
    tree = nested() | rest | {"raw": b"abc", "number": np.float32(1.5), "by": {7: array("int8")}}
    (tmp_path / "w.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    source = open_msgpack(tmp_path / "w.msgpack")
    assert sorted(source.arrays) == [
        "by/7", "empty", "params/Dense_0/bias", "params/Dense_0/kernel", "scalar"
    ]  # fmt: skip
    assert source.metadata == rest | {"raw": "<3 bytes>", "number": 1.5}


@pytest.mark.parametrize("shape", [(50,), (4, 30), ()])
def test_arrays_in_chunks(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    monkeypatch.setattr(flax_msgpack_writing, "_CHUNK", 64)
    expected = np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)
    raw = serialization.msgpack_serialize({"w": expected})
    (tmp_path / "w.msgpack").write_bytes(raw)
    same(open_msgpack(tmp_path / "w.msgpack").arrays["w"].read(), expected)
    save_msgpack(tmp_path / "w.msgpack", {"w": expected})
    raw = (tmp_path / "w.msgpack").read_bytes()
    same(serialization.msgpack_restore(raw)["w"], expected)
    same(open_msgpack(tmp_path / "w.msgpack").arrays["w"].read(), expected)


def test_an_array_is_read_from_the_file_when_it_is_asked_for(tmp_path):
    path = tmp_path / "w.msgpack"
    save_msgpack(path, {"a": np.zeros(8, np.uint8), "b": np.zeros(9, np.uint8)})
    arrays = open_msgpack(path).arrays
    path.write_bytes(path.read_bytes()[:-9] + b"\1" * 9)
    assert arrays["b"].read().all() and not arrays["a"].read().any()


@pytest.mark.parametrize("leaf", [jax.random.key(0), np.array("x"), np.array([None])])
def test_a_leaf_without_numbers_is_refused_by_name(tmp_path, leaf):
    with pytest.raises(ValueError, match="leaf 'a/w' cannot be written: its dtype is"):
        save_msgpack(tmp_path / "w.msgpack", {"a": {"w": leaf}})
    assert list(tmp_path.iterdir()) == []


def extension(code, *value):
    return msgpack.ExtType(code, msgpack.packb(value))


def evil(*value, code=1):
    return msgpack.packb({"evil": extension(code, *value)})


def chunked(shape, *chunks):
    made = {"__msgpack_chunked_array__": True, "shape": shape}
    return msgpack.packb({"evil": made | {"chunks": {str(i): c for i, c in enumerate(chunks)}}})


FOUR = extension(1, (4,), "uint8", bytes(4))
HOSTILE = {
    "nothing": (b"", "empty"),
    "more behind it": (msgpack.packb({}) + b"\xc0", "its value ends at byte 1 of 2"),
    "the byte that is never used": (b"\xc1", "byte 0 is 0xc1"),
    "text longer than the file": (b"\xdb\xff\xff\xff\xffab", "needs 4,294,967,295 more bytes"),
    "bytes longer than the file": (b"\xc6\xff\xff\xff\xffab", "needs 4,294,967,295 more"),
    "an array longer than the file": (b"\xdd\xff\xff\xff\xff\xc0", "needs 1 more"),
    "a map longer than the file": (b"\xdf\xff\xff\xff\xff\xa1a\xc0", "needs 1 more"),
    "text that is no UTF-8": (b"\xa1\xff", "utf-8"),
    "a key twice": (b"\x82\xa1a\xc0\xa1a\xc0", "'a' twice"),
    "a key that is a list": (b"\x81\x90\xc0", "no text or number"),
    "lists without end": (b"\x91" * 10**5 + b"\xc0", "nests deeper than 100"),
    "extensions without end": (b"\xc9\xff\xff\xff\xff\1" * 10**4, "needs 4,294,967,295 more"),
    "an extension in itself": (evil((1,), "uint8", extension(1, (1,))), "evil' .*not described"),
    "an unknown extension": (evil((1,), "uint8", b"a", code=5), "extension 5, which flax has not"),
    "an extension that goes on": (
        msgpack.packb(msgpack.ExtType(1, msgpack.packb(1) * 2)), "longer than its value"
    ),
    "a complex of one": (evil(1.0, code=2), "complex number .* malformed"),
    "no shape": (evil("uint8", b"abcd"), "'evil' .*not described"),
    "a shape that is a number": (evil(4, "uint8", b"abcd"), "'evil' .*not described"),
    "a negative size": (evil((-4,), "uint8", b"abcd"), "'evil' .*whole numbers from 0"),
    "a size that is true": (evil((True,), "uint8", b"a"), "'evil' .*whole numbers from 0"),
    "too few bytes": (evil((5,), "uint8", b"abcd"), r"'evil' .*uint8\[5\] is not its 4 bytes"),
    "sizes that overflow": (evil((2**62, 4), "uint8", b""), "'evil' .*more than 2"),
    "an unknown dtype": (evil((4,), "uint7", b"abcd"), "'evil' .*'uint7'"),
    "a dtype of objects": (evil((1,), "object", b"abcdefgh"), "'evil' .*'object'"),
    "a dtype in bytes": (evil((1,), b"object", b"abcdefgh"), "'evil' .*not one of numbers"),
    "a scalar with a shape": (evil((4,), "uint8", b"abcd", code=3), "'evil' .*not its 4 bytes"),
    "chunks that are too few": (chunked({"0": 9}, FOUR, FOUR), r"2 chunks do not make up \[9\]"),
    "chunks of two dtypes": (
        chunked({"0": 8}, FOUR, extension(1, (4,), "int8", bytes(4))), "do not make up"
    ),
    "chunks that are numbers": (chunked({"0": 8}, 1), "'evil' .*its chunks are not arrays"),
    "no chunks": (chunked({"0": 0}), "its chunks are not arrays"),
    "a shape of chunks with a hole": (chunked({"1": 4}, FOUR), "whole numbers from 0"),
    "chunks without a shape": (chunked(4, FOUR), "'evil' .*no shape or no chunks"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, raw, message):
    (tmp_path / "w.msgpack").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"w.msgpack .*{message}"):
        open_msgpack(tmp_path / "w.msgpack")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    raw = serialization.to_bytes(nested() | {"c": 1 + 2j})
    for end in range(len(raw)):
        (tmp_path / "w.msgpack").write_bytes(raw[:end])
        with pytest.raises(ValueError, match=r"w.msgpack"):
            open_msgpack(tmp_path / "w.msgpack")


def test_names_cannot_grow_without_bound(tmp_path):
    value = {"w": array("int8")}
    for _ in range(50):
        value = {"k" * 100: value}
    (tmp_path / "w.msgpack").write_bytes(serialization.msgpack_serialize(value))
    with pytest.raises(ValueError, match="longer names"):
        open_msgpack(tmp_path / "w.msgpack")
