"""IDX files, by hand-made bytes."""

import gzip
import struct

import numpy as np
import pytest

from wlab.data import parse_idx, read_idx

MATRIX = b"\0\0\x08\x02" + struct.pack(">II", 2, 3) + bytes([0, 1, 2, 253, 254, 255])
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def test_a_matrix_of_bytes_is_read_row_by_row():
    array = parse_idx(MATRIX)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, [[0, 1, 2], [253, 254, 255]])


@pytest.mark.parametrize("code", TYPES)
def test_every_type_is_read_into_native_byte_order(code: int):
    values = np.array([0, 1, 100], TYPES[code])
    array = parse_idx(bytes([0, 0, code, 1]) + struct.pack(">I", 3) + values.tobytes())
    assert array.dtype.isnative
    assert array.dtype == np.dtype(TYPES[code]).newbyteorder("=")
    np.testing.assert_array_equal(array, [0, 1, 100])


def test_a_gzipped_file_reads_like_a_plain_one(tmp_path):
    (tmp_path / "plain").write_bytes(MATRIX)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(MATRIX))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain"), read_idx(tmp_path / "packed.gz"))


def test_an_array_may_be_empty():
    assert parse_idx(b"\0\0\x08\x02" + struct.pack(">II", 0, 28)).shape == (0, 28)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing"),
        (b"\x89PNG" + MATRIX, "magic"),
        (b"\0\0\x07\x01" + MATRIX[4:], "magic"),
        (MATRIX[:-1], "truncated: 17 bytes where 18 are due"),
        (MATRIX[:7], "truncated"),
        (MATRIX + b"\0", "longer than its header says"),
    ],
)
def test_bad_bytes_are_refused_with_what_was_found(data: bytes, message: str):
    with pytest.raises(ValueError, match=message):
        parse_idx(data)


def test_a_cut_gzip_file_is_named(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(MATRIX)[:-9])
    with pytest.raises(ValueError, match=r"labels\.gz: damaged gzip"):
        read_idx(path)
