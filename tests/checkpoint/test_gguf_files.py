"""GGUF files put together by hand are read as they stand, and refused if they lie."""

import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from gguf_samples import (
    CUBE,
    ENTRIES,
    HALF,
    IQ4_NL,
    METADATA,
    Q4_1,
    array,
    entry,
    gguf,
    info,
    sample,
    text,
)

from wlab.checkpoint.formats.gguf import open_gguf
from wlab.checkpoint.formats.gguf_header import gguf_header


@pytest.fixture
def file(tmp_path):
    def write(content: bytes):
        path = tmp_path / "w.gguf"
        path.unlink(missing_ok=True)  # some file systems wait for the disk if it is written over
        path.write_bytes(content)
        return path

    return write


def test_metadata_of_every_type(file):
    contents = gguf_header(file(sample()))
    assert contents.metadata == {key: value for key, (_, value) in METADATA.items()}
    assert contents.types == {key: kind for key, (kind, _) in METADATA.items()}
    assert type(contents.metadata["a.bool"]) is bool
    assert open_gguf(file(sample())).metadata == contents.metadata


def test_tensors_have_rows_first_and_the_files_order(file):
    arrays = open_gguf(file(sample())).arrays
    assert {name: (a.shape, a.dtype, a.nbytes, a.encoding) for name, a in arrays.items()} == {
        "cube": ((2, 3, 4), "float32", 96, None),
        "half": ((5,), "float16", 10, None),
        "blk.0.w": ((3, 64), "float32", 120, "Q4_1"),
        "foreign": ((2, 32), "float32", 36, "IQ4_NL"),
        "count": ((), "int32", 4, None),
    }
    assert list(arrays) == ["cube", "half", "blk.0.w", "foreign", "count"]
    np.testing.assert_array_equal(arrays["cube"].read(), CUBE)
    np.testing.assert_array_equal(arrays["half"].read(), HALF)
    assert arrays["count"].read() == -7


def test_blocks_come_byte_for_byte_and_as_numbers(file):
    lazy = open_gguf(file(sample())).arrays["blk.0.w"]
    assert lazy.blocks is not None
    np.testing.assert_array_equal(lazy.blocks(), Q4_1)
    found = lazy.read()
    d, m = np.frombuffer(Q4_1[1, 20:24].tobytes(), np.float16).astype(np.float32)
    assert found[1, 32 + 3] == d * np.float32(Q4_1[1, 24 + 3] & 15) + m
    assert found[1, 32 + 19] == d * np.float32(Q4_1[1, 24 + 3] >> 4) + m


def test_a_type_that_is_not_decoded_can_be_had_as_blocks(file):
    lazy = open_gguf(file(sample())).arrays["foreign"]
    assert lazy.blocks is not None
    np.testing.assert_array_equal(lazy.blocks(), IQ4_NL)
    with pytest.raises(ValueError, match=r"w.gguf: tensor 'foreign' is IQ4_NL.*take its `blocks`"):
        lazy.read()


def test_version_2_and_another_alignment(file):
    aligned = entry("general.alignment", 4, struct.pack("<I", 128))
    infos = [info("a", (2,), 0, 0), info("b", (2,), 0, 128)]
    data = np.float32([1, 2]).tobytes() + bytes(120) + np.float32([3, 4]).tobytes()
    arrays = open_gguf(file(gguf([aligned], infos, data, version=2, alignment=128))).arrays
    np.testing.assert_array_equal(arrays["a"].read(), [1, 2])
    np.testing.assert_array_equal(arrays["b"].read(), [3, 4])


def test_empty_tensors_and_gaps(file):
    infos = [info("b", (1,), 0, 64), info("none", (0, 3), 0, 64), info("rows", (32, 0), 8, 0)]
    arrays = open_gguf(file(gguf([], infos, bytes(64) + np.float32(5).tobytes()))).arrays
    assert arrays["none"].read().shape == (3, 0)
    assert arrays["rows"].read().shape == (0, 32)
    assert arrays["rows"].blocks().shape == (0, 34)
    assert arrays["b"].read() == [5]


def test_a_vocabulary_is_read_in_order(file):
    words = [f"token {i}" for i in range(50_000)]
    whole = entry("tokens", 9, array(8, len(words), b"".join(map(text, words))))
    assert open_gguf(file(gguf([whole], []))).metadata["tokens"] == words


ONE = info("w", (2,), 0, 0)
DATA = bytes(8)
HOSTILE = {
    "an empty file": (b"", "not a GGUF file"),
    "another format": (b"PK\3\4" + bytes(60), "not a GGUF file"),
    "version 1": (gguf([], [], version=1), "another version: its version reads 1"),
    "the other byte order": (gguf([], [], version=3 << 24), "big-endian"),
    "more keys than there are": (
        gguf([], [], counts=(0, 2**63)),
        "metadata .. needs 4 bytes where 0 are left",
    ),
    "more tensors than there are": (gguf([], [], counts=(2**64 - 1, 0)), "tensor .. needs 4 bytes"),
    "a key beyond the file": (gguf([text("k", 2**62)], []), "a metadata key needs 4,611,"),
    "a key longer than what is left": (
        gguf([entry("a", 8, text("x" * 1000)), text("k", 500)], [], counts=(0, 2)),
        "a metadata key needs 500 bytes where",
    ),
    "a key that is not UTF-8": (gguf([entry(b"\xff", 0, b"\0")], []), "key is not UTF-8"),
    "a key that occurs twice": (gguf([ENTRIES[1]] * 2, []), "key 'a.uint8' occurs twice"),
    "an unknown type of value": (gguf([entry("k", 13, b"")], []), "'k' is of the unknown type 13"),
    "a bool of 2": (gguf([entry("k", 7, b"\2")], []), "'k' is bool, but"),
    "text beyond the file": (gguf([entry("k", 8, text("x", 2**63))], []), "string 0 of .*'k' need"),
    "too many numbers": (gguf([entry("k", 9, array(10, 2**61, b""))], []), "'k' needs 18,446,744,"),
    "too many texts": (gguf([entry("k", 9, array(8, 2**40, b""))], []), "'k' needs 8,796,093,"),
    "text that is too long in an array": (
        gguf([entry("k", 9, array(8, 2, text("x") + text("y", 2**40)))], []),
        "string 1 of metadata 'k' needs",
    ),
    "an array of arrays": (
        gguf([entry("k", 9, array(9, 1, array(0, 0, b"")))], []),
        "'k' is an array of arrays",
    ),
    "an alignment of 0": (
        gguf([entry("general.alignment", 4, bytes(4))], []),
        "general.alignment is uint32 0",
    ),
    "an alignment that is text": (
        gguf([entry("general.alignment", 8, text("32"))], []),
        "general.alignment is string 32",
    ),
    "a name beyond the file": (
        gguf([], [text("w", 2**33)], counts=(1, 0)),
        "a tensor's name needs",
    ),
    "a name that occurs twice": (gguf([], [ONE, ONE], DATA), "tensor 'w' occurs twice"),
    "too many dimensions": (
        gguf([], [text("w") + struct.pack("<I", 2**32 - 1)], counts=(1, 0)),
        "'w' has 4294967295 dimensions",
    ),
    "an unknown type": (gguf([], [info("w", (2,), 99, 0)], DATA), "'w' is of the unknown type 99"),
    "rows of part of a block": (
        gguf([], [info("w", (33, 2), 8, 0)], bytes(99)),
        "'w' has rows of 33, not whole Q8_0 blocks of 32",
    ),
    "a scalar in blocks": (gguf([], [info("w", (), 8, 0)], bytes(34)), "'w' has rows of 1,"),
    "a shape that overflows": (
        gguf([], [info("w", (2**63, 2**63), 0, 0)], DATA),
        "'w' claims the shape",
    ),
    "an empty shape that overflows": (
        gguf([], [info("w", (2**62, 0, 2**62), 0, 0)], DATA),
        "'w' claims the shape",
    ),
    "a tensor that is misaligned": (
        gguf([], [info("w", (2,), 0, 8)], bytes(64)),
        "'w' at offset 8 is not aligned to 32",
    ),
    "tensors that overlap": (
        gguf([], [info("a", (16,), 0, 0), info("b", (2,), 0, 32)], bytes(64)),
        "'b' overlaps the one before",
    ),
    "an offset beyond the file": (
        gguf([], [info("w", (2,), 0, 2**63)], DATA),
        "'w' ends at byte 9,223,",
    ),
    "a tensor that is cut off": (gguf([], [ONE], bytes(7)), "'w' ends at byte 72, the file at 71"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_without_allocating(file, content, message):
    path = file(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as error:
            open_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)


def test_truncated_at_every_byte(file):
    infos = [info("a", (8,), 0, 0), info("b", (1,), 0, 32)]
    whole = gguf([ENTRIES[1], ENTRIES[12]], infos, bytes(36))
    for at in range(len(whole)):
        with pytest.raises(ValueError, match=r"w\.gguf"):
            open_gguf(file(whole[:at]))
    assert len(open_gguf(file(whole)).arrays) == 2


def test_a_file_that_shrinks_after_it_was_opened(file):
    arrays = open_gguf(file(sample())).arrays
    file(sample()[:-200])
    with pytest.raises(ValueError, match="has become shorter"):
        arrays["blk.0.w"].read()


def test_a_nan_scale_is_read(file):
    nan = struct.pack("<e", float("nan")) + bytes(32)
    found = open_gguf(file(gguf([], [info("w", (32,), 8, 0)], nan))).arrays["w"].read()
    assert np.isnan(found).all()


def test_opening_never_imports_jax(file):
    command = (
        "import sys, pathlib;"
        "from wlab.checkpoint.formats import gguf, gguf_writing, llama2c, safetensors, tfjs;"
        "gguf.open_gguf(pathlib.Path(sys.argv[1])).arrays['blk.0.w'].read();"
        "print('jax' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", command, str(file(sample()))], capture_output=True, text=True
    )
    assert (result.stdout.strip(), result.stderr) == ("False", "")
