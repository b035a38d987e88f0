"""ONNX models written by hand, good and hostile; tests/peers reads those of the onnx package."""

import struct

import numpy as np
import pytest
from onnx_samples import external, floats, model, nested, tensor, varint, whole

from wlab.checkpoint.formats.onnx import open_onnx

RAW = nested(9, floats(1, 2, 3, 4))


def written(path, raw):
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("code", "numbers", "expected"),
    [
        (1, RAW, np.float32([1, 2, 3, 4])),
        (1, nested(4, floats(1, 2, 3, 4)), np.float32([1, 2, 3, 4])),
        (1, nested(4, floats(1, 2)) + nested(4, floats(3, 4)), np.float32([1, 2, 3, 4])),
        (7, nested(7, b"".join(map(varint, (0, -1, 2**62, -(2**63))))), [0, -1, 2**62, -(2**63)]),
        (3, nested(5, b"".join(map(varint, (0, -1, 127, -128)))), np.int8([0, -1, 127, -128])),
        (10, nested(5, b"".join(map(varint, (0, 0x3C00, 0xC000, 0x7BFF)))), [0, 1, -2, 65504]),
        (13, nested(11, b"".join(map(varint, (0, 1, 2**63, 2**64 - 1)))), [0, 1, 2**63, 2**64 - 1]),
        (22, nested(9, b"\x81\x7f"), [1, -8, -1, 7]),
        (21, nested(5, varint(0x81) + varint(0x7F)), [1, 8, 15, 7]),
        (9, nested(5, b"\0\1\1\0"), [False, True, True, False]),
    ],
)
def test_numbers_in_every_kind_of_field(tmp_path, code, numbers, expected):
    path = written(tmp_path / "m.onnx", model(tensor("w", code, (2, 2), numbers)))
    lazy = open_onnx(path).arrays["w"]
    found = lazy.read()
    assert found.dtype.name == lazy.dtype and found.shape == lazy.shape == (2, 2)
    assert found.astype(object).ravel().tolist() == np.array(expected, object).ravel().tolist()


def test_the_rest_is_in_the_metadata(tmp_path):
    made = model(tensor("w", 1, (4,), RAW), tensor("t", 8, (1,)), inputs=("x", "w"))
    made += nested(14, nested(1, "k") + nested(2, "v")) + nested(99, b"unknown") + whole(98, 1)
    source = open_onnx(written(tmp_path / "m.onnx", made))
    assert list(source.arrays) == ["w"]
    assert source.metadata == {
        "inputs": ["x"],
        "outputs": ["y"],
        "operators": {"": 17},
        "producer": "hand",
        "properties": {"k": "v"},
    }


def test_numbers_in_a_file_beside_the_model(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(floats(9, 1, 2, 3, 4))
    place = external(location="data/w.bin", offset="4", length="16")
    arrays = open_onnx(written(tmp_path / "m.onnx", model(tensor("w", 1, (4,), place)))).arrays
    np.testing.assert_array_equal(arrays["w"].read(), np.float32([1, 2, 3, 4]))
    rest = external(location="data/w.bin", offset="4")
    arrays = open_onnx(written(tmp_path / "m.onnx", model(tensor("w", 1, (4,), rest)))).arrays
    (tmp_path / "data" / "w.bin").write_bytes(floats(9, 1))
    with pytest.raises(ValueError, match=r"m.onnx: tensor .w. .* 16 bytes, 4 are there"):
        arrays["w"].read()


ELSEWHERE = {
    "above": (external(location="../secret"), "outside the folder"),
    "above and back": (external(location="a/../../secret"), "outside the folder"),
    "absolute": (external(location="/etc/passwd"), "outside the folder"),
    "by a link": (external(location="link"), "outside the folder"),
    "nowhere": (external(), "outside the folder"),
    "missing": (external(location="none.bin"), "not there"),
    "the folder itself": (external(location="."), "not there"),
    "a long name": (external(location="x" * 5_000), "outside|not there"),
    "a name with a zero": (external(location="a\0b"), "null"),
    "past its end": (external(location="here", offset="8", length="16"), "has 16 bytes"),
    "behind its end": (external(location="here", offset="99"), "99 to 99|not its"),
    "a negative offset": (external(location="here", offset="-4"), "not a number"),
    "digits that are none": (external(location="here", offset="\u00b2"), "not a number"),
    "a huge offset": (external(location="here", offset="9" * 400), "not a number"),
    "too few bytes": (external(location="here", length="12"), r"float32\[4\] is not its 12"),
}


@pytest.mark.parametrize(("place", "message"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_data_elsewhere_is_refused(tmp_path, place, message):
    (tmp_path / "secret").write_bytes(floats(1, 2, 3, 4))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "here").write_bytes(floats(1, 2, 3, 4))
    made = written(folder / "m.onnx", model(tensor("evil", 1, (4,), place)))
    with pytest.raises(ValueError, match=rf"m.onnx .*'evil' .*({message})"):
        open_onnx(made)


def evil(code=1, shape=(4,), numbers=RAW):
    return model(tensor("evil", code, shape, numbers))


HOSTILE = {
    "nothing": (b"", "empty"),
    "no graph": (whole(1, 8), "none or several"),
    "two graphs": (model() * 2, "none or several"),
    "a graph that is a number": (whole(7, 3), "none or several"),
    "a length past the end": (nested(7, b"abc")[:-1], "cut off"),
    "a length of 2^63": (b"\x3a" + varint(2**63) + b"a", "cut off"),
    "a number of eleven bytes": (b"\x08" + b"\x80" * 11, "longer than ten bytes"),
    "an unknown kind": (b"\x0b", "unknown kind 3"),
    "a field 0": (b"\x00\x00", "cut off or damaged"),
    "a tensor that is cut off": (model(b"\x4a\x7f"), "cut off"),
    "the same name twice": (model(*[tensor("w", 1, (4,), RAW)] * 2), "two are called 'w'"),
    "no name": (model(tensor("", 1, (4,), RAW)), "has no name"),
    "an unknown type": (evil(99), "'evil' .*number 99"),
    "no type": (evil(0), "'evil' .*number 0"),
    "a negative size": (evil(shape=(-4,)), "'evil' .*2[*][*]62"),
    "sizes that overflow": (evil(shape=(2**33, 2**33)), "'evil' .*2[*][*]62"),
    "too many axes": (evil(shape=(1,) * 40), "'evil' .*40 axes"),
    "too few bytes": (evil(shape=(5,)), r"'evil' .*float32\[5\] is not its 16 bytes"),
    "no numbers": (evil(numbers=b""), r"'evil' .*is not its 0 bytes"),
    "too few varints": (evil(7, (5,), nested(7, b"\1" * 4)), "'evil' .*not its 4 bytes"),
    "numbers one by one": (evil(7, (1,), whole(7, 1)), "one by one"),
    "sparse initializers": (model(rest=nested(15, b"")), "sparse"),
    "sizes that are cut off": (model(nested(1, b"\xff") + nested(8, "w")), "cut off"),
}


@pytest.mark.parametrize(("raw", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_model_is_refused(tmp_path, raw, message):
    with pytest.raises(ValueError, match=rf"m.onnx .*{message}"):
        open_onnx(written(tmp_path / "m.onnx", raw))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\1\1\1", "needs 32 bytes, 24 are"),
        (b"\1\1\1\1\1", "needs 32 bytes, 40 are"),
        (b"\1\1\1\xff", "cut off"),
        (b"\1\1\1" + b"\xff" * 10 + b"\1", "longer than ten"),
    ],
)
def test_varints_that_are_not_as_many_are_refused_when_read(tmp_path, raw, message):
    raw = raw if len(raw) > 3 else b"\x81\0" + raw[:2]
    made = written(tmp_path / "m.onnx", model(tensor("evil", 7, (4,), nested(7, raw))))
    with pytest.raises(ValueError, match=f"m.onnx: tensor 'evil' .*{message}"):
        open_onnx(made).arrays["evil"].read()


def test_a_model_cut_off_anywhere_is_refused(tmp_path):
    raw = model(tensor("w", 1, (4,), RAW))
    end = raw.rindex(nested(8, whole(2, 17)))  # what is behind the graph can go
    for length in range(end):
        with pytest.raises(ValueError, match=r"m.onnx"):
            open_onnx(written(tmp_path / "m.onnx", raw[:length]))


def test_numbers_are_read_when_they_are_asked_for(tmp_path):
    raw = model(tensor("w", 1, (4,), RAW))
    path = written(tmp_path / "m.onnx", raw)
    lazy = open_onnx(path).arrays["w"]
    path.write_bytes(raw.replace(floats(1, 2, 3, 4), struct.pack("<4f", 5, 6, 7, 8)))
    np.testing.assert_array_equal(lazy.read(), np.float32([5, 6, 7, 8]))
