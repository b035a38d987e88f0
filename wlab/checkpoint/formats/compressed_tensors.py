"""The layout of compressed-tensors: what it calls the parts of a quantized weight, and their bits.

A weight `m.weight` of (outputs, inputs) becomes

    pack-quantized    m.weight_packed  int32 (outputs, ⌈inputs · bits / 32⌉): codes + 2^(bits − 1),
                                       one stream of bits a row, the lowest of a word first
                      m.weight_shape   int64 (2)
    int-quantized     m.weight         int8
    float-quantized   m.weight         float8_e4m3fn

and in each of them `m.weight_scale` of (outputs, groups), and unless symmetric
`m.weight_zero_point`: int8 of the same shape, which pack-quantized packs along the outputs.
value = (code − zero point) · scale.

Reference: compressed-tensors 0.20, `compressors/pack_quantized`, `compressors/naive_quantized`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 and float8 by name)
import numpy as np
from jaxtyping import Int8, Int32, Shaped

FORMATS = ("pack-quantized", "int-quantized", "float-quantized")
STRATEGIES = ("group", "channel", "tensor")
FLOAT8 = "float8_e4m3fn"
_WORD = 32  # bits


@dataclass(frozen=True)
class Scheme:
    """How weights are written. A plain value: hashable, comparable.

    Attributes:
        format: One of `FORMATS`.
        bits: Bits of a code: 1 to 8, of a float 8.
        symmetric: Whether there are no zero points.
        strategy: What shares a scale: a "group" of inputs, a "channel" (an output), the "tensor".
        group_size: Inputs in a group; None for the other strategies.
    """

    format: str
    bits: int
    symmetric: bool = True
    strategy: str = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS or self.strategy not in STRATEGIES:
            raise ValueError(
                f"format must be in {FORMATS} and strategy in {STRATEGIES}, got "
                f"{self.format!r} and {self.strategy!r}."
            )
        if type(self.bits) is not int or not 1 <= self.bits <= 8 or (self.floats and self.bits < 8):
            raise ValueError(f"{self.format} has 1 to 8 bits, floats 8, got {self.bits!r}.")
        if self.floats and not self.symmetric:
            raise ValueError("float-quantized weights have no zero points.")
        grouped = type(self.group_size) is int and self.group_size > 0
        if grouped != (self.strategy == "group") or not (grouped or self.group_size is None):
            raise ValueError(
                f"a group_size goes with strategy 'group', got {self.group_size!r} "
                f"and {self.strategy!r}."
            )

    @property
    def floats(self) -> bool:
        """Whether codes are floats."""
        return self.format == "float-quantized"

    def scale_shape(self, shape: tuple[int, int]) -> tuple[int, ...]:
        """The shape of the scales of a weight of (outputs, inputs).

        Raises:
            ValueError: If groups do not divide the inputs: a short last one has no place here.
        """
        if self.strategy == "tensor":
            return (1,)
        if self.group_size is None:
            return (shape[0], 1)
        if shape[1] % self.group_size:
            raise ValueError(
                f"{shape[1]} inputs leave a short last group of {self.group_size}, for which "
                "compressed-tensors has no place; choose a size that divides them."
            )
        return (shape[0], shape[1] // self.group_size)


@dataclass(frozen=True)
class Compressed:
    """A quantized weight, unpacked.

    Attributes:
        codes: int8 or float8_e4m3fn of (outputs, inputs).
        scale: As `Scheme.scale_shape`.
        zero_point: int8 of the same shape; None if symmetric.
        scheme: How it is written.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    scheme: Scheme


def parts(name: str, weight: Compressed) -> dict[str, np.ndarray]:
    """The arrays to save of the weight `name`, which ends in `.weight`.

    Raises:
        ValueError: If its arrays are not what the scheme says, naming it.
    """
    check(name, weight)
    scheme, codes, zero = weight.scheme, weight.codes, weight.zero_point
    made = {f"{name}_scale": weight.scale}
    if scheme.format != "pack-quantized":
        return {name: codes, **made} | ({} if zero is None else {f"{name}_zero_point": zero})
    made |= {f"{name}_packed": pack(codes, scheme.bits)}
    made |= {f"{name}_shape": np.array(codes.shape, np.int64)}
    if zero is not None:
        packs = zero.ndim == 2  # one zero point for the tensor stays as it is
        made[f"{name}_zero_point"] = pack(zero.T, scheme.bits).T.copy() if packs else zero
    return made


def from_parts(name: str, arrays: Mapping[str, Any], scheme: Scheme) -> Compressed:
    """The inverse of `parts`.

    Raises:
        ValueError: If an array is missing, or is not what the scheme says, naming it.
    """
    packed = scheme.format == "pack-quantized"
    wanted = [f"{name}_packed", f"{name}_shape"] if packed else [name]
    wanted += [f"{name}_scale"] + ([] if scheme.symmetric else [f"{name}_zero_point"])
    for part in wanted:
        if part not in arrays:
            raise ValueError(f"{part!r} is missing: {scheme.format} takes {', '.join(wanted)}.")
    scale = np.asarray(arrays[f"{name}_scale"])
    zero = None if scheme.symmetric else np.asarray(arrays[f"{name}_zero_point"])
    if not packed:
        codes = np.asarray(arrays[name])
    else:
        shape = _shape(name, np.asarray(arrays[f"{name}_shape"]))
        codes = _unpacked(f"{name}_packed", arrays, scheme, shape)
        if zero is not None and zero.dtype == np.int32:
            rows = {f"{name}_zero_point": zero.T}
            zero = _unpacked(f"{name}_zero_point", rows, scheme, (scale.shape[-1], shape[0])).T
    found = Compressed(codes, scale, zero, scheme)
    check(name, found)
    return found


def check(name: str, weight: Compressed) -> None:
    """Raises unless a weight's arrays are what its scheme says.

    Raises:
        ValueError: Naming the weight.
    """
    scheme, codes, half = weight.scheme, weight.codes, 2 ** (weight.scheme.bits - 1)
    if not name.endswith("weight") or codes.ndim != 2:
        raise ValueError(f"{name!r} of {codes.ndim} axes is no matrix named `….weight`.")
    if codes.dtype != (FLOAT8 if scheme.floats else "int8"):
        raise ValueError(f"{name!r}: {scheme.format} codes cannot be {codes.dtype.name}.")
    try:
        shape = scheme.scale_shape((codes.shape[0], codes.shape[1]))
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
    if weight.scale.shape != shape or weight.scale.dtype.name not in _SCALES:
        raise ValueError(
            f"{name}_scale: expected floats of {list(shape)}, found "
            f"{weight.scale.dtype.name}{list(weight.scale.shape)}."
        )
    zero = weight.zero_point
    if (zero is None) != scheme.symmetric:
        raise ValueError(f"{name!r}: zero points go with schemes that are not symmetric.")
    if zero is not None and (zero.shape != shape or zero.dtype != np.int8):
        raise ValueError(f"{name}_zero_point: expected int8{list(shape)}, found {zero.shape}.")
    for each in () if scheme.floats else (codes, zero):
        if each is not None and each.size and not -half <= each.min() <= each.max() < half:
            raise ValueError(f"{name!r} holds codes beyond {scheme.bits} bits.")


def pack(codes: Int8[np.ndarray, "rows n"], bits: int) -> Int32[np.ndarray, "rows words"]:
    """Codes of two's complement as one stream of bits a row, offset by 2^(bits − 1)."""
    rows, n = codes.shape
    plain = (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    stream = np.unpackbits(plain[..., None], axis=-1, bitorder="little", count=bits)
    words = -(-n * bits // _WORD)
    spare = ((0, 0), (0, words * _WORD - n * bits))
    stream = np.pad(stream.reshape(rows, n * bits), spare)
    return np.packbits(stream, axis=1, bitorder="little").view("<i4").astype(np.int32, copy=False)


def unpack(
    packed: Int32[np.ndarray, "rows words"], bits: int, n: int
) -> Int8[np.ndarray, "rows n"]:
    """The inverse of `pack`."""
    rows = packed.shape[0]
    octets = np.ascontiguousarray(packed.astype("<i4", copy=False)).view(np.uint8)
    stream = np.unpackbits(octets, axis=1, bitorder="little", count=n * bits)
    plain = np.packbits(stream.reshape(rows, n, bits), axis=-1, bitorder="little")[..., 0]
    return (plain.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)


_SCALES = ("float32", "float16", "bfloat16")


def _unpacked(
    part: str, arrays: Mapping[str, Any], scheme: Scheme, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "rows n"]:
    packed = np.asarray(arrays[part])
    wanted = (shape[0], -(-shape[1] * scheme.bits // _WORD))
    if packed.shape != wanted or packed.dtype != np.int32:
        raise ValueError(
            f"{part!r}: expected int32{list(wanted)}, found "
            f"{packed.dtype.name}{list(packed.shape)}."
        )
    return unpack(packed, scheme.bits, shape[1])


def _shape(name: str, stated: np.ndarray) -> tuple[int, int]:
    if stated.shape != (2,) or not np.issubdtype(stated.dtype, np.integer) or stated.min() < 0:
        raise ValueError(f"{name}_shape is {stated.tolist()}, not the shape of a matrix.")
    return int(stated[0]), int(stated[1])
