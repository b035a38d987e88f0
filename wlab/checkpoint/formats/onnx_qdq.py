"""Quantized weights of ONNX models: what DequantizeLinear makes of initializers.

A node takes codes, a scale and maybe a zero point, and its output has the name of the weight.
Opset 10 has one scale, 13 one for each entry of an axis, 21 also one for each block of an axis,
and codes of 4 bits.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from wlab.checkpoint.formats.onnx import open_onnx
from wlab.checkpoint.formats.onnx_tensors import text
from wlab.checkpoint.formats.protobuf import BYTES, VARINT, Data, Field, fields
from wlab.checkpoint.source import Lazy
from wlab.checkpoint.steps import PathLike

_GRAPH, _NODE = 7, 1  # of ModelProto, of GraphProto
_INPUTS, _OUTPUTS, _OPERATOR, _ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
_NAME, _INTEGER = 1, 3  # of AttributeProto
DEQUANTIZE = "DequantizeLinear"
_DEFAULT_AXIS = 1
_NIBBLES = {"int4": "int8", "uint4": "uint8"}


class QuantizedInitializer(NamedTuple):
    """value = (code − zero point) · scale.

    Attributes:
        codes: Integers, or whatever else the model has; codes of 4 bits are in bytes.
        scale: A scalar; of (size of the axis,); or of the codes' shape, but for the axis, where
            it has one for each block.
        zero_point: Of the codes' dtype and the scale's shape; None stands for zeros.
        bits: Bits that the file has for a code.
        axis: Along which scales differ, or blocks run; None if there is one scale.
        block_size: Consecutive entries along the axis with a common scale; 0 if there are no
            blocks.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    bits: int
    axis: int | None
    block_size: int


class _Node(NamedTuple):
    inputs: list[str]
    outputs: list[str]
    operator: str
    attributes: dict[str, int]


def load_onnx_qdq(path: PathLike) -> dict[str, Any]:
    """Every weight of a model: a `QuantizedInitializer` by the output of its node, or an array.

    Arrays are the initializers that are not parts of quantized ones. Nodes whose codes are not
    initializers quantize activations, and are passed over.

    Raises:
        ValueError: If the file is damaged, or the parts of a weight are missing or do not belong
            together, naming it.
    """
    path = Path(path)
    arrays = open_onnx(path).arrays
    weights: dict[str, Any] = {}
    taken: set[str] = set()
    try:
        for node in _dequantized(path, arrays):
            name = node.outputs[0] if node.outputs else ""
            if not name:
                raise ValueError(f"the node of the codes {node.inputs[0]!r} has no output")
            if name in weights or name in arrays:
                raise ValueError(f"two weights have the name {name!r}")
            weights[name] = _read(name, node, arrays)
            taken.update(node.inputs)
    except ValueError as error:
        raise ValueError(f"{path} has quantized weights that cannot be read: {error}.") from None
    return weights | {name: x.read() for name, x in arrays.items() if name not in taken}


def is_qdq(path: PathLike) -> bool:
    """Whether a model has quantized weights.

    Raises:
        ValueError: If the file is damaged.
    """
    path = Path(path)
    return any(True for _ in _dequantized(path, open_onnx(path).arrays))


def dequantized(weight: QuantizedInitializer) -> Shaped[np.ndarray, "*shape"]:
    """What the node gives: (code − zero point) · scale in float32, then of the scale's dtype."""
    codes, scale, zero = weight.codes, weight.scale.astype(np.float32), weight.zero_point
    zero = np.zeros(scale.shape, np.float32) if zero is None else zero.astype(np.float32)
    if weight.axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    else:
        axis = weight.axis % codes.ndim
        if weight.block_size:
            at = np.arange(codes.shape[axis]) // weight.block_size
            scale, zero = scale.take(at, axis), zero.take(at, axis)
        else:
            shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((codes.astype(np.float32) - zero) * scale).astype(weight.scale.dtype)


def onnx_nbytes(weight: QuantizedInitializer) -> int:
    """Bytes of its parts in a file."""
    codes = [part for part in (weight.codes, weight.zero_point) if part is not None]
    return weight.scale.nbytes + sum(-(-part.size * weight.bits // 8) for part in codes)


def check(name: str, weight: QuantizedInitializer) -> None:
    """Raises unless the shapes of a weight's parts belong together.

    Raises:
        ValueError: Naming the weight, what was found and what it should be.
    """
    shape, scale, zero = weight.codes.shape, weight.scale, weight.zero_point
    wanted: tuple[int, ...] = scale.shape if scale.size == 1 and scale.ndim <= 1 else ()
    if weight.axis is not None:
        if not -len(shape) <= weight.axis < len(shape):
            raise ValueError(
                f"{name!r}: its axis {weight.axis} is out of range for codes of {list(shape)}"
            )
        axis = weight.axis % len(shape)
        blocks = -(-shape[axis] // weight.block_size) if weight.block_size else 0
        blocked = (*shape[:axis], blocks, *shape[axis + 1 :])
        wanted = blocked if weight.block_size else (shape[axis],)
    if scale.shape != wanted:
        raise ValueError(
            f"{name!r}: codes of {list(shape)} take scales of {list(wanted)}, found "
            f"{list(scale.shape)}"
        )
    if zero is not None and (zero.shape != wanted or zero.dtype != weight.codes.dtype):
        raise ValueError(
            f"{name!r}: the zero points must be {weight.codes.dtype.name}{list(wanted)}, found "
            f"{zero.dtype.name}{list(zero.shape)}"
        )


def _dequantized(path: Path, arrays: Mapping[str, Lazy]) -> Iterator[_Node]:
    """The nodes that dequantize initializers."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for graph in fields(data, 0, len(data)):
            if graph.number != _GRAPH or graph.kind != BYTES:
                continue
            for field in fields(data, graph.begin, graph.end):
                if field.number == _NODE and field.kind == BYTES:
                    node = _node(data, field)
                    if node.operator == DEQUANTIZE and node.inputs[:1] and node.inputs[0] in arrays:
                        yield node


def _node(data: Data, field: Field) -> _Node:
    found = _Node([], [], "", {})
    for part in fields(data, field.begin, field.end):
        if part.kind != BYTES:
            continue
        if part.number in (_INPUTS, _OUTPUTS):
            names = found.inputs if part.number == _INPUTS else found.outputs
            names.append(text(data, part))
        elif part.number == _OPERATOR:
            found = found._replace(operator=text(data, part))
        elif part.number == _ATTRIBUTE:
            found.attributes.update(_attribute(data, part))
    return found


def _attribute(data: Data, field: Field) -> dict[str, int]:
    """The name and the value of an attribute that is a whole number."""
    name, value = "", 0
    for part in fields(data, field.begin, field.end):
        if part.number == _NAME and part.kind == BYTES:
            name = text(data, part)
        elif part.number == _INTEGER and part.kind == VARINT:
            value = part.value - 2**64 if part.value >= 2**63 else part.value
    return {name: value}


def _read(name: str, node: _Node, arrays: Mapping[str, Lazy]) -> QuantizedInitializer:
    named = [*node.inputs, "", ""][:3]
    if named[1] not in arrays:
        raise ValueError(f"{name!r}: its scale {named[1]!r} is no initializer")
    if named[2] and named[2] not in arrays:
        raise ValueError(f"{name!r}: its zero point {named[2]!r} is no initializer")
    codes, scale = _plain(arrays[named[0]]), arrays[named[1]].read()
    zero = _plain(arrays[named[2]]) if named[2] else None
    block = node.attributes.get("block_size", 0)
    if block < 0:
        raise ValueError(f"{name!r}: blocks of {block} entries")
    axis = node.attributes.get("axis", _DEFAULT_AXIS)
    single = not block and scale.size == 1 and scale.ndim <= 1
    stored = arrays[named[0]].dtype
    bits = 4 if stored in _NIBBLES else 8 * codes.dtype.itemsize
    found = QuantizedInitializer(codes, scale, zero, bits, None if single else axis, block)
    check(name, found)
    return found


def _plain(array: Lazy) -> np.ndarray:
    """Codes of 4 bits as bytes."""
    return array.read().astype(_NIBBLES.get(array.dtype, array.dtype))
