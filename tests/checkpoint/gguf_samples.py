"""GGUF bytes put together by hand, sound or not."""

import struct

import numpy as np


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def entry(key: str | bytes, code: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", code) + payload


def array(code: int, count: int, payload: bytes) -> bytes:
    return struct.pack("<IQ", code, count) + payload


def info(name: str | bytes, dims: tuple[int, ...], code: int, offset: int) -> bytes:
    """`dims` as ggml has them, the fastest first."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offset)


def gguf(
    entries: list[bytes],
    infos: list[bytes],
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    tensors, keys = counts or (len(infos), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(entries + infos)
    return head + bytes(-len(head) % alignment) + data


METADATA = {
    "general.architecture": ("string", "llama"),
    "a.uint8": ("uint8", 200),
    "a.int8": ("int8", -100),
    "a.uint16": ("uint16", 60_000),
    "a.int16": ("int16", -30_000),
    "a.uint32": ("uint32", 4_000_000_000),
    "a.int32": ("int32", -2_000_000_000),
    "a.float32": ("float32", 0.25),
    "a.bool": ("bool", True),
    "a.uint64": ("uint64", 2**63),
    "a.int64": ("int64", -(2**62)),
    "a.float64": ("float64", 0.1),
    "tokens": ("string[]", ["a", "", "é", "\udcff"]),
    "token_type": ("int32[]", [1, -2, 3]),
    "flags": ("bool[]", [True, False]),
    "scores": ("float32[]", [0.5, -1.5]),
    "nothing": ("uint8[]", []),
}
ENTRIES = [
    entry("general.architecture", 8, text("llama")),
    entry("a.uint8", 0, struct.pack("<B", 200)),
    entry("a.int8", 1, struct.pack("<b", -100)),
    entry("a.uint16", 2, struct.pack("<H", 60_000)),
    entry("a.int16", 3, struct.pack("<h", -30_000)),
    entry("a.uint32", 4, struct.pack("<I", 4_000_000_000)),
    entry("a.int32", 5, struct.pack("<i", -2_000_000_000)),
    entry("a.float32", 6, struct.pack("<f", 0.25)),
    entry("a.bool", 7, b"\1"),
    entry("a.uint64", 10, struct.pack("<Q", 2**63)),
    entry("a.int64", 11, struct.pack("<q", -(2**62))),
    entry("a.float64", 12, struct.pack("<d", 0.1)),
    entry("tokens", 9, array(8, 4, text("a") + text("") + text("é") + text(b"\xff"))),
    entry("token_type", 9, array(5, 3, struct.pack("<3i", 1, -2, 3))),
    entry("flags", 9, array(7, 2, b"\1\0")),
    entry("scores", 9, array(6, 2, struct.pack("<2f", 0.5, -1.5))),
    entry("nothing", 9, array(0, 0, b"")),
]

_RNG = np.random.default_rng(0)
CUBE = _RNG.standard_normal((2, 3, 4)).astype(np.float32)
HALF = np.arange(5, dtype=np.float16) / 2
Q4_1 = _RNG.integers(0, 64, (3, 40), dtype=np.uint8)  # three rows of two blocks
IQ4_NL = _RNG.integers(0, 256, (2, 18), dtype=np.uint8)


def sample(foreign: int = 20) -> bytes:
    """All the types of values; a plain, a half, an encoded and a foreign tensor; a scalar."""
    infos = [
        info("cube", (4, 3, 2), 0, 0),
        info("half", (5,), 1, 96),
        info("blk.0.w", (64, 3), 3, 128),
        info("foreign", (32, 2), foreign, 256),
        info("count", (), 26, 320),
    ]
    data = CUBE.tobytes() + HALF.tobytes() + bytes(22) + Q4_1.tobytes() + bytes(8)
    data += IQ4_NL.tobytes() + bytes(28) + struct.pack("<i", -7) + bytes(28)
    return gguf(ENTRIES, infos, data)
