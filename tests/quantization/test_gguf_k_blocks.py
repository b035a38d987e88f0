"""K-quants written here, read by the reader of GGUF files: the parts, the bytes, the error."""

import numpy as np
import pytest

from wlab.checkpoint.formats.gguf_blocks import decode
from wlab.quantization.gguf_k_blocks import k_blocks, q4_k_packed, q6_k_packed

SQNR = {"Q4_K": (21.5, 23.0), "Q6_K": (33.0, 36.0)}  # of normal weights, dB


def halves(rng, n):
    return rng.uniform(0.01, 0.1, (n, 1)).astype(np.float16).astype(np.float32)


def parts(encoding, n=5):
    """Parts that use their whole ranges, so that the numbers tell which parts they were."""
    rng = np.random.default_rng(0)
    if encoding == "Q4_K":
        s, t = (rng.integers(1, 64, (n, 8)).astype(np.uint8) for _ in range(2))
        q = rng.integers(0, 16, (n, 8, 32)).astype(np.uint8)
        s[:, 5], t[:, 2], q[..., 3], q[..., 30] = 63, 63, 0, 15
        return halves(rng, n), halves(rng, n), s, t, q
    s = rng.integers(1, 128, (n, 16)).astype(np.int8) * rng.choice(
        np.array([-1, 1], np.int8), (n, 16)
    )
    q = rng.integers(1, 64, (n, 16, 16)).astype(np.uint8)
    s[:, 7], q[..., 9] = -128, 0
    return halves(rng, n), s, q


def meant(encoding, parts):
    if encoding == "Q4_K":
        d, m, s, t, q = (part.astype(np.float32) for part in parts)
        return ((d * s)[..., None] * q - (m * t)[..., None]).reshape(-1, 256)
    d, s, q = (part.astype(np.float32) for part in parts)
    return ((d * s)[..., None] * (q - 32)).reshape(-1, 256)


def packed(encoding, parts):
    return q4_k_packed(*parts) if encoding == "Q4_K" else q6_k_packed(*parts)


@pytest.mark.parametrize("encoding", ["Q4_K", "Q6_K"])
def test_the_reader_finds_the_parts_where_they_were_put(encoding):
    given = parts(encoding)
    found = decode(packed(encoding, given), encoding)
    np.testing.assert_array_equal(found, meant(encoding, given))


@pytest.mark.parametrize("encoding", ["Q4_K", "Q6_K"])
def test_what_was_read_is_written_byte_for_byte(encoding):
    blocks = packed(encoding, parts(encoding))
    np.testing.assert_array_equal(k_blocks(decode(blocks, encoding), encoding), blocks)


@pytest.mark.parametrize(("encoding", "bits"), [("Q4_K", 4.5), ("Q6_K", 6.5625)])
def test_normal_weights_keep_what_so_many_bits_hold(encoding, bits):
    x = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    blocks = k_blocks(x, encoding)
    assert blocks.size * 8 == bits * x.size
    lost = np.square(decode(blocks, encoding) - x).sum() / np.square(x).sum()
    low, high = SQNR[encoding]
    assert low < -10 * np.log10(lost) < high


@pytest.mark.parametrize(("encoding", "size"), [("Q4_K", 32), ("Q6_K", 16)])
def test_no_weight_is_off_by_more_than_its_group_allows(encoding, size):
    x = np.random.default_rng(2).standard_t(3, (4, 512)).astype(np.float32)
    groups = x.reshape(-1, size)
    found = decode(k_blocks(x, encoding), encoding).reshape(-1, size)
    widths = np.maximum(groups.max(-1), 0) - np.minimum(groups.min(-1), 0)
    largest = np.abs(x.reshape(-1, 256)).max(-1).repeat(256 // size)
    # A step and a half, and what the rounding of the scales adds at the far end.
    step = widths / 15 if encoding == "Q4_K" else np.abs(groups).max(-1) / 32
    code = largest * (2 / 63 if encoding == "Q4_K" else 1 / 128)
    assert (np.abs(found - groups).max(-1) <= 1.5 * step + code).all()


@pytest.mark.parametrize("encoding", ["Q4_K", "Q6_K"])
def test_zeros_and_groups_of_one_sign_are_met(encoding):
    x = np.zeros((2, 256), np.float32)
    x[1] = 0.25
    found = decode(k_blocks(x, encoding), encoding)
    assert not found[0].any()
    np.testing.assert_allclose(found[1], 0.25, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "fill", "encoding", "said"),
    [
        ((1, 256), 0.0, "Q5_K", "encoding must be in"),
        ((1, 300), 0.0, "Q4_K", "rows of 300 weights are not whole Q4_K blocks of 256"),
        ((1, 256), np.nan, "Q6_K", "not finite or beyond 65,504"),
        ((1, 256), 1e6, "Q4_K", "not finite or beyond 65,504"),
    ],
)
def test_what_has_no_blocks_is_refused(shape, fill, encoding, said):
    with pytest.raises(ValueError, match=said):
        k_blocks(np.full(shape, fill, np.float32), encoding)
