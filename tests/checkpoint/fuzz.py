"""Damages files in the ways that break readers, the same ways for the same seed."""

import random
import re
from collections.abc import Callable, Iterator

_NUMBERS = (
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"9" * 40,
    b"true",
    b"null",
    b'"x"',
    b"[]",
)


def mutations(data: bytes, seed: int) -> Iterator[bytes]:
    """Endless damaged copies of `data`: one to three damages each."""
    rng = random.Random(seed)
    while True:
        damaged = data
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            damaged = rng.choice(_DAMAGES)(damaged, rng)
        if damaged != data:
            yield damaged


def _place(data: bytes, rng: random.Random) -> int:
    """Anywhere, but oftener in the first or last bytes, where headers and directories are."""
    last = max(0, len(data) - 1)
    near = min(last, rng.choice((32, 256)))
    return rng.choice((rng.randint(0, last), rng.randint(0, near), last - rng.randint(0, near)))


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _extreme_length(data: bytes, rng: random.Random) -> bytes:
    """Overwrites 1, 2, 4 or 8 bytes, of either order, with a number that a length must not be."""
    width = rng.choice((1, 2, 4, 8))
    top = 1 << 8 * width
    number = rng.choice(
        (0, 1, top - 1, top // 2, top // 2 - 1, len(data), len(data) + 1, top // 32)
    )
    at = _place(data, rng)
    return (
        data[:at]
        + (number % top).to_bytes(width, rng.choice(("little", "big")))
        + data[at + width :]
    )


def _splice(data: bytes, rng: random.Random) -> bytes:
    source, at, count = _place(data, rng), _place(data, rng), rng.choice((1, 8, 64))
    chunk = data[source : source + count]
    return data[:at] + chunk + data[at + len(chunk) :]


def _duplicate(data: bytes, rng: random.Random) -> bytes:
    at, count = _place(data, rng), rng.choice((1, 8, 64, 512))
    return data[: at + count] + data[at:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 8, 64, 512)) :]


def _change_digits(data: bytes, rng: random.Random) -> bytes:
    """Puts another value in the place of a number that is written out, as in JSON."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return _flip_bits(data, rng)
    begin, end = rng.choice(found).span()
    return data[:begin] + rng.choice(_NUMBERS) + data[end:]


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bits,
    _truncate,
    _extreme_length,
    _splice,
    _duplicate,
    _remove,
    _change_digits,
)
