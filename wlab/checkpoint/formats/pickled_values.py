"""What the containers, NumPy arrays and JAX arrays of a pickle stand for, once it is read as data.

An array is (shape, dtype, order, bytes) however it was pickled: `_reconstruct` and a state up to
protocol 4, `_frombuffer` from protocol 5 on; protocol 2 spells bytes as latin-1 text.
"""

from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from wlab.checkpoint.formats.flattening import keyed
from wlab.checkpoint.formats.inert import Global, Object, Piece
from wlab.checkpoint.formats.numbers import checked_dtype, checked_shape
from wlab.checkpoint.source import Lazy

_INLINE = 64  # bytes that the metadata shows
_DICTS = (
    "builtins.dict",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "flax.core.frozen_dict.FrozenDict",
)
_SETS = ("builtins.set", "builtins.frozenset")
CALLS = frozenset(
    (
        *_DICTS,
        *_SETS,
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
        "numpy.dtype",
        "jax._src.array._reconstruct_array",
        "_codecs.encode",
        "builtins.bytes",
        "builtins.bytearray",
    )
)


def opened(path: Path, name: str, value: Any) -> Any:
    """A value of a pickle as a `Lazy` array, a dict, a list, or plain text and numbers.

    An instance of a class unknown here is a dict of what was stored for it (arguments by
    position, items, attributes) and its `class`, or only the class's name if that is all.

    Args:
        path: The file in which the pickle's long bytes lie.
        name: The value's own path in the pickle, for errors.
        value: What `read_pickle` gave.

    Raises:
        ValueError: If an array is not one of numbers, or its bytes are not as many as it needs.
    """
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Global):
        return str(value)
    if isinstance(value, Piece):
        return f"<{_length(value):,} bytes>"
    if not isinstance(value, Object):
        return value
    try:
        return _opened(path, name, value)
    except (TypeError, IndexError) as error:
        raise ValueError(f"{name!r} is stored as {value.of}, but malformed: {error}") from None


def _opened(path: Path, name: str, value: Object) -> Any:
    match str(value.of):
        case "numpy._core.multiarray._reconstruct":
            return _reconstructed(path, name, value.state)
        case "jax._src.array._reconstruct_array":
            function, _, state, _ = _fields(value.args, 4)
            if function != Global("numpy._core.multiarray", "_reconstruct"):
                raise TypeError("its first argument is another function")
            return _reconstructed(path, name, state)
        case "numpy._core.numeric._frombuffer":
            data, dtype, shape, order = _fields(value.args, 4)
            return _array(path, name, shape, dtype, order, data)
        case "numpy._core.multiarray.scalar":
            dtype, data = _fields(value.args, 2)
            return _array(path, name, (), dtype, "C", data).read().item()
        case "numpy.dtype":
            return _dtype(value).name
        case "_codecs.encode" | "builtins.bytes" | "builtins.bytearray":
            data = _bytes(value)
            if isinstance(data, Piece) or len(data) > _INLINE:
                return f"<{_length(data):,} bytes>"
            return _raw(path, name, data)
        case of if of in _DICTS:
            return contents(value)
        case of if of in _SETS:
            return set_items(value)
        case of:
            return _instance(of, value)


def _fields(values: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(values, tuple) or len(values) != count:
        raise TypeError(f"it has not the {count} values that it needs")
    return values


def _reconstructed(path: Path, name: str, state: Any) -> Lazy:
    _, shape, dtype, fortran, data = _fields(state, 5)
    return _array(path, name, shape, dtype, "F" if fortran else "C", data)


def _instance(of: str, value: Object) -> Any:
    parts = [*enumerate((*value.args, *value.items)), *value.pairs]
    if is_dict(value.state):
        parts += value.state.pairs
    elif value.state is not None:
        parts.append(("state", value.state))
    return keyed([("class", of), *parts]) if parts else of


def is_dict(value: Any) -> TypeGuard[Object]:
    """Whether it is one of the kinds of dict that are known."""
    return isinstance(value, Object) and str(value.of) in _DICTS


def contents(value: Object) -> dict[str, Any]:
    """A dict's values by the text of their keys, those given to its constructor first.

    Raises:
        ValueError: If it was constructed from something else than a dict or pairs.
    """
    pairs = []
    for argument in value.args[:3]:
        if is_dict(argument):
            pairs += argument.pairs
        elif isinstance(argument, list):
            pairs += argument
        elif not isinstance(argument, Global | None):  # the factory of a defaultdict
            raise ValueError(f"a {value.of} is made of something else than a dict or pairs")
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"a {value.of} is made of pairs that are not two values")
    return keyed((*pairs, *value.pairs))


def set_items(value: Any) -> list[Any]:
    """A set's items.

    Raises:
        ValueError: If it is no set.
    """
    if not isinstance(value, Object) or str(value.of) not in _SETS:
        raise ValueError("what should be a set is none")
    first = value.args[0] if value.args else []
    if not isinstance(first, list | tuple):
        raise ValueError("a set is made of something else than a list")
    return [*first, *value.items]


def _array(path: Path, name: str, shape: Any, dtype: Any, order: Any, data: Any) -> Lazy:
    try:
        stored, shape = _dtype(dtype), checked_shape(shape)
    except ValueError as error:
        raise ValueError(f"array {name!r} cannot be read: {error}") from None
    if isinstance(data, list):
        raise ValueError(f"array {name!r} holds Python objects, which are not read")
    data = _bytes(data)
    found = _length(data)
    if order not in ("C", "F") or found != prod(shape) * stored.itemsize:
        raise ValueError(
            f"array {name!r} is {stored.name}{list(shape)}, which is not its {found:,} bytes"
        )

    def read() -> np.ndarray:
        flat = np.frombuffer(_raw(path, name, data), stored)
        return flat.astype(stored.newbyteorder("=")).reshape(shape, order=order)

    return Lazy(shape, stored.name, found, read)


def _raw(path: Path, name: str, data: bytes | str | Piece) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        try:
            return data.encode("latin-1")
        except UnicodeError:
            raise ValueError(f"{path}: the text of {name!r} stands for no bytes.") from None
    with path.open("rb") as file:
        file.seek(data.begin)
        raw = file.read(data.end - data.begin)
    if len(raw) != data.end - data.begin:
        raise ValueError(f"{path} has become shorter since it was opened.")
    return raw


def _dtype(value: Any) -> np.dtype:
    """From `dtype("f4")` with the state `(3, "<", ...)`, or `dtype(ml_dtypes.bfloat16)`."""
    if not isinstance(value, Object) or str(value.of) != "numpy.dtype":
        raise TypeError("its dtype is not a NumPy dtype")
    code = value.args[0] if value.args else None
    if isinstance(code, Global):
        return checked_dtype(code.name)
    if not isinstance(code, str) or code[:1] not in (*"biufc?",):
        raise ValueError("it is not one of numbers (Python objects, text and records are not read)")
    order = value.state[1] if value.state else "="
    if order not in ("<", ">", "=", "|"):
        raise TypeError("its dtype has no byte order")
    dtype = np.dtype(code)
    return checked_dtype(dtype.name).newbyteorder("<" if order == "=" else order)


def _length(data: bytes | str | Piece) -> int:
    return data.end - data.begin if isinstance(data, Piece) else len(data)


def _bytes(value: Any) -> bytes | str | Piece:
    """Bytes, where they lie, or the latin-1 text of protocol 2: copied only when they are read."""
    if isinstance(value, Object) and str(value.of) == "_codecs.encode":
        value = value.args[0]
    elif isinstance(value, Object) and str(value.of) in ("builtins.bytes", "builtins.bytearray"):
        value = value.args[0] if value.args else b""
    if not isinstance(value, bytes | str | Piece):
        raise TypeError("its bytes are not bytes")
    return value
