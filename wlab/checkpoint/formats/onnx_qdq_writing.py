"""ONNX out: a graph of DequantizeLinear nodes whose outputs are the weights.

value = (code − zero point) · scale, for every consumer that knows opset 21.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 by name)
import numpy as np
from jaxtyping import Shaped, UInt8

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.formats.onnx_qdq import DEQUANTIZE, QuantizedInitializer, check
from wlab.checkpoint.formats.onnx_tensors import DTYPES
from wlab.checkpoint.formats.protobuf import BYTES, VARINT
from wlab.checkpoint.source import Lazy, dtype_of
from wlab.checkpoint.steps import PathLike

_CODES = {name: code for code, name in DTYPES.items()}
_IR_VERSION, _OPSET = 10, 21
_INTEGER = 2  # an attribute's type
_LIMIT = 2**31 - 1  # bytes of a protocol buffer


class _Tensor(NamedTuple):
    """An initializer: all of it but its numbers, and how to come by these."""

    head: bytes
    nbytes: int
    produce: Callable[[], np.ndarray]


def save_onnx_qdq(path: PathLike, weights: Mapping[str, Any]) -> None:
    """Writes weights as an ONNX model, which takes its name only when it is complete.

    A quantized weight `name` is the output of a node, of the dtype of its scale; its parts are the
    initializers `name.codes`, `name.scale` and `name.zero_point`. Other arrays are initializers
    without a node. Codes of 4 bits are int4 or uint4, two in a byte.

    Args:
        path: The file, by custom ending in `.onnx`.
        weights: By name: `QuantizedInitializer`, or arrays (`Lazy` too) as they are.

    Raises:
        ValueError: If a weight is not what it says, two arrays have the same name, the format
            lacks a dtype, or all are more than 2 GiB.
    """
    tensors: dict[str, _Tensor] = {}
    nodes, outputs = b"", b""
    for name, weight in weights.items():
        made = {name: weight}
        if isinstance(weight, QuantizedInitializer):
            _check(name, weight)
            made = _parts(name, weight)
            nodes += _bytes(1, _node(name, weight, list(made)))
            outputs += _bytes(12, _output(name, weight))
        for part, array in made.items():
            if part in tensors or (part != name and part in weights):
                raise ValueError(f"save_onnx_qdq: two arrays have the name {part!r}; rename one.")
            tensors[part] = _tensor(part, array)
    _write(path, nodes + _bytes(2, "weights"), list(tensors.values()), outputs)


def _write(path: PathLike, nodes: bytes, tensors: list[_Tensor], outputs: bytes) -> None:
    """The model, its initializers between the nodes and the outputs."""
    heads = [_head(5, len(t.head) + t.nbytes) + t.head for t in tensors]
    length = len(nodes) + sum(map(len, heads)) + sum(t.nbytes for t in tensors) + len(outputs)
    if length > _LIMIT - 100:
        raise ValueError(
            f"save_onnx_qdq: {length:,} bytes are more than the 2 GiB of an ONNX file; write "
            "several files, or fewer bits."
        )
    begin = _whole(1, _IR_VERSION) + _bytes(2, "wlab") + _head(7, length)
    with written_whole(path) as file:
        file.write(begin + nodes)
        for head, tensor in zip(heads, tensors, strict=True):
            _write_tensor(file, head, tensor)
        file.write(outputs + _bytes(8, _bytes(1, "") + _whole(2, _OPSET)))


def _write_tensor(file: BinaryIO, head: bytes, tensor: _Tensor) -> None:
    array = np.ascontiguousarray(tensor.produce())
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    if raw.nbytes != tensor.nbytes:
        raise ValueError(
            f"save_onnx_qdq: an array gave {raw.nbytes:,} bytes, {tensor.nbytes:,} were planned."
        )
    file.write(head)
    file.write(raw.data)


def _check(name: str, weight: QuantizedInitializer) -> None:
    try:
        check(name, weight)
    except ValueError as error:
        raise ValueError(f"save_onnx_qdq: {error}.") from None
    low, high = (-8, 7) if weight.codes.dtype == np.int8 else (0, 15)
    for part in (weight.codes, weight.zero_point) if weight.bits == 4 else ():
        if part is not None and part.size and not low <= part.min() <= part.max() <= high:
            raise ValueError(f"save_onnx_qdq: {name!r} holds codes beyond 4 bits.")


def _parts(name: str, weight: QuantizedInitializer) -> dict[str, Any]:
    """The initializers of a quantized weight, in the order of a node's inputs."""
    parts = {"codes": weight.codes, "scale": weight.scale, "zero_point": weight.zero_point}
    stored = {}
    for part, array in parts.items():
        if array is not None:
            nibbles = weight.bits == 4 and part != "scale"
            stored[f"{name}.{part}"] = _Nibbles(array) if nibbles else array
    return stored


class _Nibbles(NamedTuple):
    """int8 or uint8 that are to be written as 4 bits each."""

    codes: np.ndarray


def _tensor(name: str, array: Any) -> _Tensor:
    nibbles = isinstance(array, _Nibbles)
    plain = array.codes if nibbles else array
    shape, stored = tuple(plain.shape), dtype_of(plain)
    stored = stored.replace("8", "4") if nibbles else stored
    if stored not in _CODES:
        raise ValueError(
            f"save_onnx_qdq: array {name!r} is {stored}, which is not written; cast it or omit it."
        )
    halved = stored in ("int4", "uint4")
    nbytes = -(-prod(shape) // 2) if halved else prod(shape) * np.dtype(stored).itemsize
    head = b"".join(_whole(1, size) for size in shape) + _whole(2, _CODES[stored])
    head += _bytes(8, name) + _head(9, nbytes)
    produce = plain.read if isinstance(plain, Lazy) else lambda: np.asarray(plain)
    return _Tensor(head, nbytes, (lambda: _packed(produce())) if halved else produce)


def _packed(codes: Shaped[np.ndarray, "*shape"]) -> UInt8[np.ndarray, " bytes"]:
    """Two codes a byte, the lower half first; an odd last one has a half to spare."""
    flat = codes.reshape(-1).astype(np.int8).view(np.uint8) & 15
    flat = np.pad(flat, (0, flat.size % 2)).reshape(-1, 2)
    return flat[:, 0] | flat[:, 1] << 4


def _node(name: str, weight: QuantizedInitializer, inputs: list[str]) -> bytes:
    numbers = {} if weight.axis is None else {"axis": weight.axis}
    numbers |= {"block_size": weight.block_size} if weight.block_size else {}
    made = b"".join(_bytes(1, part) for part in inputs) + _bytes(2, name) + _bytes(3, name)
    made += _bytes(4, DEQUANTIZE)
    for key, value in numbers.items():
        made += _bytes(5, _bytes(1, key) + _whole(3, value) + _whole(20, _INTEGER))
    return made


def _output(name: str, weight: QuantizedInitializer) -> bytes:
    """A ValueInfoProto: the name, the dtype and the sizes."""
    sizes = b"".join(_bytes(1, _whole(1, size)) for size in weight.codes.shape)
    kind = _whole(1, _CODES[weight.scale.dtype.name]) + _bytes(2, sizes)
    return _bytes(1, name) + _bytes(2, _bytes(1, kind))


def _whole(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value % 2**64)


def _bytes(number: int, raw: bytes | str) -> bytes:
    raw = raw.encode() if isinstance(raw, str) else raw
    return _head(number, len(raw)) + raw


def _head(number: int, length: int) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 128:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
