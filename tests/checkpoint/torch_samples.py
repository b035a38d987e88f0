"""Files of PyTorch written by hand, opcode by opcode: what its pickles say, without it.

Each function gives the opcodes that push one value; `program` makes a pickle of them.
"""

import struct
import zipfile
from pathlib import Path

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def several(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def wholes(*values: int) -> bytes:
    return several(*map(whole, values))


def mapping(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def call(module: str, function: str, *args: bytes) -> bytes:
    return name(module, function) + several(*args) + b"R"


def program(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def ordered(**values: bytes) -> bytes:
    pairs = b"".join(text(key) + value for key, value in values.items())
    return call("collections", "OrderedDict") + b"(" + pairs + b"u"


def storage(kind: str, key: str, size: int, *view: bytes) -> bytes:
    parts = (text("storage"), name("torch", kind), text(key), text("cpu"), whole(size), *view)
    return several(*parts) + b"Q"


def tensor(stored: bytes, shape=(2,), strides=(1,), offset=0) -> bytes:
    args = (stored, whole(offset), wholes(*shape), wholes(*strides), b"\x89", ordered())
    return call("torch._utils", "_rebuild_tensor_v2", *args)


def parameter(value: bytes) -> bytes:
    return call("torch._utils", "_rebuild_parameter", value, b"\x88", ordered())


def module(of: str, *, parameters=None, buffers=None, modules=None, hidden=()) -> bytes:
    """An instance of a class, made by `__new__` and given its state."""
    hidden = b"]" + b"".join(text(key) + b"a" for key in hidden)
    state = mapping(
        training=b"\x88",
        _parameters=ordered(**(parameters or {})),
        _buffers=ordered(**(buffers or {})),
        _modules=ordered(**(modules or {})),
        _non_persistent_buffers_set=call("__builtin__", "set", hidden),
    )
    return name(*of.rsplit(".", 1)) + b")\x81" + state + b"b"


def write_zip(path: Path, value: bytes, storages: dict[str, bytes], **members: bytes) -> Path:
    """A zip file of `torch.save`: `members` go beside `data.pkl`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("w/data.pkl", program(value))
        for key, raw in {f"data/{k}": v for k, v in storages.items()}.items():
            archive.writestr(f"w/{key}", raw)
        for key, raw in members.items():
            archive.writestr(f"w/{key}", raw)
    return path


def write_legacy(path: Path, value: bytes, storages: dict[str, tuple[int, bytes]]) -> Path:
    """The form before 1.6: five pickles, then for each storage its size and its bytes."""
    system = mapping(protocol_version=whole(PROTOCOL), little_endian=b"\x88")
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    pickles = (whole(MAGIC), whole(PROTOCOL), system, value, keys)
    rows = (struct.pack("<q", size) + raw for size, raw in storages.values())
    path.write_bytes(b"".join((*map(program, pickles), *rows)))
    return path
