"""The block encodings agree, bit for bit, with twins that know one element at a time."""

import struct

import ml_dtypes
import numpy as np
import pytest

from wlab.checkpoint.formats.gguf_blocks import DECODED, ENCODED, decode, encode
from wlab.checkpoint.formats.gguf_types import ENCODINGS

F = np.float32


def half(block: bytes, at: int) -> np.float32:
    return F(struct.unpack_from("<e", block, at)[0])


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def nibble(packed: bytes, i: int) -> int:
    """Of 32 in 16 bytes: first all low halves, then all high ones."""
    return packed[i] & 15 if i < 16 else packed[i - 16] >> 4


def five(block: bytes, at: int, i: int) -> int:
    high = struct.unpack_from("<I", block, at)[0] >> i & 1
    return nibble(block[at + 4 :], i) | high << 4


def q4_k(block: bytes, i: int) -> np.float32:
    sub, packed = i // 32, block[4:16]
    if sub < 4:
        s, t = packed[sub] & 63, packed[sub + 4] & 63
    else:
        s = packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4
        t = packed[sub + 4] >> 4 | packed[sub] >> 6 << 4
    byte = block[16 + i // 64 * 32 + i % 32]
    q = byte & 15 if i % 64 < 32 else byte >> 4
    return half(block, 0) * F(s) * F(q) - half(block, 2) * F(t)


def q6_k(block: bytes, i: int) -> np.float32:
    part, l = divmod(i, 128)  # noqa: E741
    quarter, l = divmod(l, 32)  # noqa: E741
    low = block[64 * part + l + 32 * (quarter % 2)]
    low = low & 15 if quarter < 2 else low >> 4
    high = block[128 + 32 * part + l] >> 2 * quarter & 3
    return half(block, 208) * F(signed(block[192 + i // 16])) * F((low | high << 4) - 32)


TWINS = {
    "F32": lambda b, i: F(struct.unpack("<f", b)[0]),
    "F16": lambda b, i: half(b, 0),
    "BF16": lambda b, i: F(struct.unpack("<f", bytes(2) + b)[0]),
    "Q4_0": lambda b, i: half(b, 0) * F(nibble(b[2:], i) - 8),
    "Q4_1": lambda b, i: half(b, 0) * F(nibble(b[4:], i)) + half(b, 2),
    "Q5_0": lambda b, i: half(b, 0) * F(five(b, 2, i) - 16),
    "Q5_1": lambda b, i: half(b, 0) * F(five(b, 4, i)) + half(b, 2),
    "Q8_0": lambda b, i: half(b, 0) * F(signed(b[2 + i])),
    "Q4_K": q4_k,
    "Q6_K": q6_k,
}
SCALES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}


def random_blocks(encoding: str, rows: int, blocks: int) -> np.ndarray:
    """Any bytes, but finite numbers and scales."""
    kind = ENCODINGS[encoding]
    rng = np.random.default_rng(kind.code)
    found = rng.integers(0, 256, (rows * blocks, kind.nbytes), dtype=np.uint8)
    for at in SCALES.get(encoding, (0,) if kind.size > 1 else (kind.nbytes - 2,)):
        found[:, at + 1] &= 0x3F
    return found.reshape(rows, -1)


@pytest.mark.parametrize("encoding", TWINS)
def test_decoding_agrees_with_the_layout(encoding):
    kind = ENCODINGS[encoding]
    blocks = random_blocks(encoding, 3, 2)
    expected = [
        [TWINS[encoding](row[at : at + kind.nbytes].tobytes(), i) for i in range(kind.size)]
        for row in blocks
        for at in (0, kind.nbytes)
    ]
    found = decode(blocks, encoding)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, F).reshape(3, -1))


def test_every_decoded_type_has_its_twin():
    assert TWINS.keys() == DECODED.keys()


def test_a_block_worked_out_by_hand():
    block = struct.pack("<e", 0.5) + bytes([0x80, 0xF7] + [0x88] * 14)
    expected = [-4.0, -0.5] + [0.0] * 14 + [0.0, 3.5] + [0.0] * 14
    found = decode(np.frombuffer(block, np.uint8)[None], "Q4_0")
    np.testing.assert_array_equal(found, F([expected]))


def test_bits_of_an_element():
    bits = {name: kind.bits for name, kind in ENCODINGS.items()}
    assert (bits["Q4_0"], bits["Q4_1"], bits["Q8_0"]) == (4.5, 5.0, 8.5)
    assert (bits["Q4_K"], bits["Q6_K"], bits["BF16"]) == (4.5, 6.5625, 16)


def q8_0(x: list[np.float32]) -> bytes:
    d = max(abs(v) for v in x) / F(127)
    inverse = F(1) / d if d else F(0)
    q = [int(abs(float(v * inverse)) + 0.5) * (1 if v >= 0 else -1) for v in x]
    return struct.pack("<e32b", d, *q)


def q4_0(x: list[np.float32]) -> bytes:
    d = max(x, key=abs) / F(-8)
    inverse = F(1) / d if d else F(0)
    q = [min(15, int(v * inverse + F(8.5))) for v in x]
    return struct.pack("<e16B", d, *(q[i] | q[i + 16] << 4 for i in range(16)))


@pytest.mark.parametrize(("encoding", "twin"), [("Q8_0", q8_0), ("Q4_0", q4_0)])
@pytest.mark.parametrize("scale", [1e-30, 1e-7, 0.02, 1, 1e4])
def test_encoding_agrees_with_the_reference_arithmetic(encoding, twin, scale):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6, 64)) * scale).astype(F)
    x[3] = np.round(x[3] / F(scale) * 2) * F(scale / 2)  # ties, equal magnitudes of both signs
    x[4, :32] = 0
    expected = b"".join(twin(list(row[at : at + 32])) for row in x for at in (0, 32))
    assert encode(x, encoding).tobytes() == expected


def test_halves_are_rounded_away_from_zero():
    x = np.zeros((1, 32), F)
    x[0, :8] = [127, 0.5, -0.5, 1.5, -2.5, 0.49999997, 126.5, -126.5]
    assert list(encode(x, "Q8_0")[0, 2:10].view(np.int8)) == [127, 1, -1, 2, -3, 0, 127, -127]


@pytest.mark.parametrize("encoding", ENCODED)
def test_what_lies_on_the_grid_survives(encoding):
    x = np.tile(np.arange(-8, 8, dtype=F), (5, 4))
    if encoding == "Q8_0":
        x[:, ::32] = 127
    np.testing.assert_array_equal(decode(encode(x, encoding), encoding), x)


def test_plain_numbers_are_rounded_to_even():
    x = F([[1 + 2**-9, 1 + 3 * 2**-9, -0.0, np.inf]])
    found = encode(x, "BF16").view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found.astype(F), [[1, 1 + 2**-7, 0, np.inf]])
    assert encode(x, "F16").view(np.float16)[0, 0] == np.float16(1 + 2**-9)


def test_subnormal_blocks_become_zero():
    x = np.full((1, 32), 1e-42, F)
    for encoding in ("Q8_0", "Q4_0"):
        assert (decode(encode(x, encoding), encoding) == 0).all()


def test_many_rows_are_as_each_alone():
    x = np.random.default_rng(0).standard_normal((5, 1 << 18)).astype(F)
    whole = encode(x, "Q8_0")
    each = [encode(row[None], "Q8_0")[0] for row in x]
    np.testing.assert_array_equal(whole, each)
    np.testing.assert_array_equal(decode(whole, "Q8_0")[4], decode(each[4][None], "Q8_0")[0])


BAD = {
    "NaN": (np.full((1, 32), np.nan, F), "Q8_0", "a NaN, an infinity or a scale above 65,504"),
    "infinity": (np.full((1, 32), -np.inf, F), "Q4_0", "a NaN, an infinity or a scale above"),
    "a large scale": (np.full((1, 32), 1e7, F), "Q8_0", "a scale above 65,504; keep float32"),
    "beyond float16": (F([[1, -7e4]]), "F16", r"7e\+04 is beyond float16"),
    "part of a block": (np.zeros((2, 33), F), "Q4_0", "rows of 33 elements are not whole Q4_0"),
    "a type that is not written": (np.zeros((1, 256), F), "Q4_K", "'Q4_K' is not written; F32,"),
}


@pytest.mark.parametrize(("x", "encoding", "message"), BAD.values(), ids=BAD.keys())
def test_what_has_no_place_is_refused(x, encoding, message):
    with pytest.raises(ValueError, match=message):
        encode(x, encoding)


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(ValueError, match="'Q2_K' is not decoded; F32,"):
        decode(np.zeros((1, 84), np.uint8), "Q2_K")
    with pytest.raises(ValueError, match="rows of 35 bytes are not whole Q8_0 blocks of 34"):
        decode(np.zeros((1, 35), np.uint8), "Q8_0")
