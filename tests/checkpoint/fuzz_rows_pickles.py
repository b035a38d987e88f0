"""Samples of the formats of pickles, msgpack and protocol buffers, for test_fuzz_formats."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import serialization
from onnx_samples import external, floats, model, nested, varint
from onnx_samples import tensor as initializer
from torch_samples import (
    mapping,
    module,
    ordered,
    parameter,
    storage,
    tensor,
    text,
    whole,
    write_legacy,
    write_zip,
)

from wlab.checkpoint.formats.flax_msgpack import open_msgpack
from wlab.checkpoint.formats.numpy_pickles import open_pickle
from wlab.checkpoint.formats.onnx import open_onnx
from wlab.checkpoint.formats.torch_files import open_torch
from wlab.checkpoint.source import Source

Row = tuple[Callable[[Path], None], Callable[[Path], Source]]

FIRST = storage("FloatStorage", "0", 6)
SECOND = storage("LongStorage", "1", 3)
CHECKPOINT = mapping(
    epoch=whole(3),
    state_dict=ordered(
        w=parameter(tensor(FIRST, (2, 2), (1, 3))),
        tied=tensor(FIRST, (2, 2), (1, 3)),
        n=tensor(SECOND, (), ()),
        b=tensor(SECOND, (3,), (1,)),
    ),
    net=module("m.Net", parameters={"w": tensor(FIRST, offset=4)}, modules={"a": text("x")}),
)
FLOATS, LONGS = floats(*range(6)), np.arange(3).tobytes()


def tree() -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {
        "params": {"kernel": rng.normal(size=(5, 6)).astype(np.float32), "bias": np.ones(3)},
        "flags": {"0": np.array([True, False]), "scale": np.float32(2)},
        "step": 3,
        "name": "net",
    }


def write_pickle(protocol: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(tree(), protocol)) and None


def write_torch_zip(path: Path) -> None:
    write_zip(path, CHECKPOINT, {"0": FLOATS, "1": LONGS}, version=b"3", byteorder=b"little")


def write_torch_legacy(path: Path) -> None:
    write_legacy(path, CHECKPOINT, {"0": (6, FLOATS), "1": (3, LONGS)})


def write_msgpack(path: Path) -> None:
    path.write_bytes(serialization.msgpack_serialize(tree() | {"complex": 1 + 2j}))


def write_onnx(path: Path) -> None:
    (path.parent / "beside.bin").write_bytes(FLOATS)
    tensors = (
        initializer("raw", 1, (2, 3), nested(9, FLOATS)),
        initializer("typed", 7, (3,), nested(7, varint(5) + varint(-5) + varint(2**40))),
        initializer("halves", 22, (3,), nested(9, b"\x12\x03")),
        initializer("beside", 1, (6,), external(location="beside.bin", length="24")),
    )
    path.write_bytes(model(*tensors))


ROWS: dict[str, Row] = {
    "pickle 2": (write_pickle(2), open_pickle),
    "pickle 4": (write_pickle(4), open_pickle),
    "pickle 5": (write_pickle(5), lambda path: open_pickle(path, strict=False)),
    "torch zip": (write_torch_zip, open_torch),
    "torch legacy": (write_torch_legacy, lambda path: open_torch(path, strict=False)),
    "msgpack": (write_msgpack, open_msgpack),
    "onnx": (write_onnx, open_onnx),
}
