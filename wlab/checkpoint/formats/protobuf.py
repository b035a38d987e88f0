"""Protocol buffers walked field by field, without their schema and without copying them.

A message is a run of fields: a tag (number and kind), then a varint, 4 or 8 bytes, or a length
and that many bytes. What a field means is up to the caller.
"""

import mmap
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64, UInt8

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTHS = {FIXED64: 8, FIXED32: 4}

Data: TypeAlias = bytes | mmap.mmap


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: Which one, as the schema counts.
        kind: VARINT, FIXED64, BYTES or FIXED32.
        value: Of a varint; else 0.
        begin: Where its bytes begin in the file, behind their length.
        end: Where they end.
    """

    number: int
    kind: int
    value: int
    begin: int
    end: int


def fields(data: Data, begin: int, end: int) -> Iterator[Field]:
    """The fields of the message between two places.

    Raises:
        ValueError: If a field passes the end, or is of a kind that files do not have.
    """
    at = begin
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind, value, start = tag >> 3, tag & 7, 0, at
        if kind == VARINT:
            value, at = _varint(data, at, end)
        elif kind == BYTES:
            length, start = _varint(data, at, end)
            at = start + length
        elif kind in _WIDTHS:
            at += _WIDTHS[kind]
        else:
            raise ValueError(f"byte {start:,} begins a field of the unknown kind {kind}")
        if number == 0 or at > end:
            raise ValueError(f"the field at byte {start:,} is cut off or damaged")
        yield Field(number, kind, value, start, at)


def _varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the last byte is below 128."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & (2**64 - 1), at
    raise ValueError(f"the number at byte {at:,} is cut off or longer than ten bytes")


def varints(raw: UInt8[np.ndarray, " bytes"]) -> Int64[np.ndarray, " numbers"]:
    """Decodes a run of varints; numbers from 2^63 on come out negative, as they were encoded.

    Raises:
        ValueError: If the last is cut off, or one is longer than ten bytes.
    """
    ends = np.flatnonzero(raw < 128)
    if raw.size and (not ends.size or ends[-1] != raw.size - 1):
        raise ValueError("its numbers are cut off")
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])[: ends.size]
    lengths = ends - starts + 1
    if lengths.max(initial=0) > 10:
        raise ValueError("one of its numbers is longer than ten bytes")
    value = np.zeros(ends.size, np.uint64)
    for i in range(int(lengths.max(initial=0))):
        has = lengths > i
        byte = raw[starts[has] + i].astype(np.uint64) & np.uint64(127)
        value[has] |= byte << np.uint64(7 * i)
    return value.view(np.int64)
