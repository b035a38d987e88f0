"""ONNX models written by hand: protocol buffers, field by field."""

import struct


def varint(value: int) -> bytes:
    value %= 2**64
    raw = bytearray()
    while value >= 128:
        raw.append(value % 128 + 128)
        value //= 128
    return bytes([*raw, value])


def whole(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def nested(number: int, raw: bytes | str) -> bytes:
    raw = raw.encode() if isinstance(raw, str) else raw
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, code: int, shape, *numbers: bytes) -> bytes:
    sizes = b"".join(whole(1, size) for size in shape)
    return sizes + whole(2, code) + nested(8, name) + b"".join(numbers)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def external(**entries: str) -> bytes:
    """The fields of a tensor whose numbers are in another file."""
    pairs = (nested(13, nested(1, key) + nested(2, value)) for key, value in entries.items())
    return b"".join(pairs) + whole(14, 1)


def model(*tensors: bytes, inputs=("x",), outputs=("y",), rest: bytes = b"") -> bytes:
    node = nested(1, nested(1, "x") + nested(2, "y") + nested(4, "Relu"))
    graph = node + nested(2, "g") + b"".join(nested(5, made) for made in tensors)
    graph += b"".join(nested(11, nested(1, name)) for name in inputs)
    graph += b"".join(nested(12, nested(1, name)) for name in outputs)
    return whole(1, 8) + nested(2, "hand") + nested(7, graph + rest) + nested(8, whole(2, 17))
