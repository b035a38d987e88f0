"""Samples for `test_fuzz_formats`: GGUF, llama2.c, TensorFlow.js and safetensors."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
from gguf_samples import sample

from wlab.checkpoint.formats.gguf import open_gguf
from wlab.checkpoint.formats.llama2c import open_llama2c, read_llama2c_tokenizer
from wlab.checkpoint.formats.safetensors import open_safetensors, open_safetensors_index
from wlab.checkpoint.formats.tfjs import open_tfjs
from wlab.checkpoint.source import Source

_A = np.arange(6, dtype=np.float32).reshape(2, 3)
_B = np.arange(4).astype(ml_dtypes.bfloat16)


def _write_gguf(path: Path) -> None:
    path.write_bytes(sample(foreign=2))


def _write_llama2c(path: Path) -> None:
    numbers = np.arange(5 * 8 + 2 * 8 * (2 + 8 + 4 + 4 + 8 + 3 * 6) + 8 + 2 * 3 * 2, dtype="<f4")
    path.write_bytes(struct.pack("<7i", 8, 6, 2, 2, 1, 5, 3) + numbers.tobytes())


def _write_tokenizer(path: Path) -> None:
    tokens = [b"<unk>", b"", b"\xff", b" the"]
    rest = b"".join(struct.pack("<fi", -i, len(t)) + t for i, t in enumerate(tokens))
    path.write_bytes(struct.pack("<i", 5) + rest)


def _open_tokenizer(path: Path) -> Source:
    return Source(path, "llama2c", {}, read_llama2c_tokenizer(path)._asdict())


def _write_tfjs(path: Path, shard: str = "shard") -> None:
    affine = {"dtype": "uint8", "scale": 0.5, "min": -3.0}
    weights = [
        {"name": "a", "shape": [2, 3], "dtype": "float32"},
        {"name": "q", "shape": [3, 4], "dtype": "float32", "quantization": affine},
        {"name": "on", "shape": [2], "dtype": "bool"},
    ]
    group = {"paths": [shard], "weights": weights}
    path.with_name(shard).write_bytes(_A.tobytes() + bytes(range(12)) + b"\1\0")
    path.write_text(json.dumps({"modelTopology": {"n": [1, 2]}, "weightsManifest": [group]}))


def _write_safetensors(path: Path) -> None:
    safetensors.numpy.save_file({"a": _A, "b": _B}, path, metadata={"format": "np"})


def _write_index(path: Path, shard: str = "shard.safetensors") -> None:
    _write_safetensors(path.with_name(shard))
    fields = {"metadata": {"total_size": 32}, "weight_map": {"a": shard, "b": shard}}
    path.write_text(json.dumps(fields))


ROWS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Source]]] = {
    "gguf": (_write_gguf, open_gguf),
    "llama2c": (_write_llama2c, open_llama2c),
    "llama2c tokenizer": (_write_tokenizer, _open_tokenizer),
    "tfjs": (_write_tfjs, open_tfjs),
    "tfjs, a shard": (
        lambda path: _write_tfjs(path.with_name("model.json"), path.name),
        lambda path: open_tfjs(path.with_name("model.json")),
    ),
    "safetensors": (_write_safetensors, open_safetensors),
    "safetensors index": (_write_index, open_safetensors_index),
    "safetensors index, a shard": (
        lambda path: _write_index(path.with_name("index.json"), path.name),
        lambda path: open_safetensors_index(path.with_name("index.json")),
    ),
}
