"""IDX, the format of the MNIST files: a four-byte magic, the lengths, big-endian values."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read_idx(path: str | Path) -> np.ndarray:
    """Reads one array, gzipped or not, in native byte order.

    Raises:
        ValueError: If the file is not IDX, or holds fewer or more bytes than its header says.
    """
    path = Path(path)
    data = path.read_bytes()
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip data ({error}); fetch it again.") from None
    return parse_idx(data, name=str(path))


def parse_idx(data: bytes, *, name: str = "IDX data") -> np.ndarray:
    """The array in `data`; `name` stands in errors.

    Raises:
        ValueError: As `read_idx`.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES:
        raise ValueError(
            f"{name}: starts with {data[:4].hex(' ') or 'nothing'}, not with an IDX magic "
            "(00 00, a type, a rank). Is it another file, or one that is still packed?"
        )
    dtype, rank = np.dtype(_DTYPES[data[2]]), data[3]
    header = 4 + 4 * rank
    shape = struct.unpack_from(f">{rank}I", data, 4) if len(data) >= header else None
    expected = header if shape is None else header + math.prod(shape) * dtype.itemsize
    if shape is None or len(data) != expected:
        state = "truncated" if len(data) < expected else "longer than its header says"
        raise ValueError(
            f"{name}: {state}: {len(data):,} bytes where {expected:,} are due. Fetch it again."
        )
    values = np.frombuffer(data, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="))
