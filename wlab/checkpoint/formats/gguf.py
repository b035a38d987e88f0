"""GGUF, the files of llama.cpp: plain and block-quantized tensors with their hyper-parameters."""

from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from wlab.checkpoint.formats.gguf_blocks import DECODED, decode
from wlab.checkpoint.formats.gguf_header import Tensor, gguf_header
from wlab.checkpoint.formats.gguf_types import ENCODINGS
from wlab.checkpoint.source import Lazy, Source, span


def open_gguf(path: Path) -> Source:
    """A GGUF file, opened: names as in the file, shapes with rows first (ggml's reversed).

    `read` gives block-quantized tensors as float32, `blocks` their bytes as they are; `encoding`
    is ggml's name of the type. A type that is listed but not decoded can only be had as blocks.

    Raises:
        ValueError: If the file is not GGUF, is truncated, or its header does not describe it.
    """
    contents = gguf_header(path)
    arrays = {name: _lazy(path, name, tensor) for name, tensor in contents.tensors.items()}
    return Source(path, "gguf", arrays, contents.metadata)


def _lazy(path: Path, name: str, tensor: Tensor) -> Lazy:
    encoding = ENCODINGS[tensor.encoding]
    if encoding.dtype is not None:
        return span(path, encoding.dtype, tensor.shape, tensor.begin)
    nbytes = tensor.end - tensor.begin
    rows, width = prod(tensor.shape[:-1]), tensor.shape[-1] // encoding.size * encoding.nbytes

    def blocks() -> UInt8[np.ndarray, "rows bytes"]:
        return span(path, "uint8", (rows, width), tensor.begin).read()

    def read() -> Float32[np.ndarray, "..."]:
        if tensor.encoding not in DECODED:
            raise ValueError(
                f"{path}: tensor {name!r} is {tensor.encoding}, which is not decoded; take its "
                "`blocks`, or convert the file to Q8_0 with ggml's tools."
            )
        return decode(blocks(), tensor.encoding).reshape(tensor.shape)

    return Lazy(tensor.shape, "float32", nbytes, read, tensor.encoding, blocks)
