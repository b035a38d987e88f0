"""What a pickle of PyTorch stands for: storages, strided tensors on them, modules of parameters.

A tensor is a view (sizes, strides, offset) of a storage, a row of numbers that lies elsewhere in
the file; several tensors may share one. A module is its `_parameters`, `_buffers` and `_modules`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from wlab.checkpoint.formats import pickled_values
from wlab.checkpoint.formats.inert import Global, Object
from wlab.checkpoint.formats.numbers import checked_dtype, checked_shape
from wlab.checkpoint.formats.pickled_values import contents, is_dict
from wlab.checkpoint.source import Lazy

_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_DTYPES = {"half": "float16", "float": "float32", "double": "float64"}
_PLAIN = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_TYPED = "torch._utils._rebuild_tensor_v3"
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"
_SIMPLE = ("torch.Size", "torch.device", "torch.serialization._get_layout")
_MAX_FLAGS, _MAX_WRAPS = 8, 8
CALLS = pickled_values.CALLS | {*_PLAIN, _TYPED, *_PARAMETERS, _SUBCLASS, *_SIMPLE}


@dataclass(frozen=True)
class Storage:
    """A row of numbers, by the key under which the file has it.

    Attributes:
        key: As `0`, or `94371840`.
        dtype: Of its numbers.
        size: How many there are.
        root_size: How many the file has under this key, when this is a part of them.
        start: Where in them this part begins.
    """

    key: str
    dtype: str
    size: int
    root_size: int
    start: int = 0


class Bytes(NamedTuple):
    """Where the storages lie: `offset(storage)` in bytes of the file, having checked its size."""

    path: Path
    order: Literal["<", ">"]
    offset: Callable[[Storage], int]


def persistent(identity: Any) -> Storage | Global:
    """The storage, or the module's class, that a persistent id of PyTorch describes.

    Raises:
        ValueError: If it is neither.
    """
    match identity:
        case ("module", Global() as of, *_):
            return of
        case ("storage", Global() as of, str(key), _, int(size)):
            return _storage(of, key, size, None)
        case ("storage", Global() as of, str(key), _, int(size), view):
            return _storage(of, key, size, view)
    raise ValueError("the pickle refers to something that is neither a storage nor a module")


def _storage(of: Global, key: str, size: int, view: Any) -> Storage:
    if of.name not in _STORAGES:
        raise ValueError(f"storage {key!r} is a {of}, which is not read")
    dtype = _STORAGES[of.name]
    match view:
        case None:
            part, start = size, 0
        case (_, int(start), int(part)):
            pass
        case _:
            raise ValueError(f"storage {key!r} is a part of another one, but malformed")
    if min(size, part, start) < 0 or start + part > size:
        raise ValueError(f"storage {key!r} claims {start:,} + {part:,} of {size:,} elements")
    return Storage(key, dtype, part, size, start)


def opened(
    where: Bytes, aliases: dict[str, str], classes: dict[str, str]
) -> Callable[[str, Any], Any]:
    """What `flatten` asks: the array, dict, list or plain value for each value of the pickle.

    Args:
        where: The storages.
        aliases: Takes, for each tensor that is the same view as an earlier one, that one's name.
        classes: Takes the class of each module by its path.
    """
    first: dict[Any, str] = {}
    parts: dict[int, dict[str, Any] | None] = {}

    def value_of(name: str, value: Any) -> Any:
        value = _unwrapped(name, value)
        if not isinstance(value, Object):
            return pickled_values.opened(where.path, name, value)
        of = str(value.of)
        if of in (*_PLAIN, _TYPED):
            try:
                lazy, view = _tensor(where, _view(of, value.args))
            except ValueError as error:
                raise ValueError(f"tensor {name!r} cannot be read: {error}") from None
            if first.setdefault(view, name) != name:
                aliases[name] = first[view]
            return lazy
        if of in _SIMPLE:
            value = value.args[0] if len(value.args) == 1 else value.args
            return pickled_values.opened(where.path, name, value)
        if is_dict(value.state):
            # Many objects can share one state, which may be long: it is looked at once.
            if id(value.state) not in parts:
                parts[id(value.state)] = _module_parts(value.state)
            found = parts[id(value.state)]
            if found is not None:
                classes[name] = of
                return found
        return pickled_values.opened(where.path, name, value)

    return value_of


def _unwrapped(name: str, value: Any) -> Any:
    """The tensor inside a parameter or a tensor with attributes."""
    for _ in range(_MAX_WRAPS):
        if not isinstance(value, Object):
            return value
        of, args = str(value.of), value.args
        if of in _PARAMETERS and args:
            value = args[0]
        elif of == _SUBCLASS:
            if len(args) < 3 or not isinstance(args[0], Global) or not isinstance(args[2], tuple):
                raise ValueError(f"tensor {name!r} is of a subclass, but malformed")
            value = Object(args[0], args[2])
        else:
            return value
    raise ValueError(f"tensor {name!r} is wrapped more than {_MAX_WRAPS} times")


def _module_parts(stored: Object) -> dict[str, Any] | None:
    """A module's parts by name, in the order of PyTorch's `state_dict`; None of no module."""
    state = contents(stored)
    if "_parameters" not in state or "_modules" not in state:
        return None
    hidden = state.get("_non_persistent_buffers_set")
    items = pickled_values.set_items(hidden) if hidden is not None else []
    names = {item for item in items if isinstance(item, str)}
    found: dict[str, Any] = {}
    for room in ("_parameters", "_buffers", "_modules"):
        parts = contents(state[room]) if is_dict(state.get(room)) else {}
        for name, part in parts.items():
            if part is not None and not (room == "_buffers" and name in names):
                if name in found:
                    raise ValueError(f"a module has two parts called {name!r}")
                found[name] = part
    return found


class _View(NamedTuple):
    """What a tensor sees of a storage; offset and strides are in elements of its dtype."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def reach(self) -> int:
        """Elements from the first to the last that it sees."""
        if not prod(self.shape):
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


def _view(of: str, args: tuple[Any, ...]) -> _View:
    padded = (*args[:7], *[None] * 7)[:7]
    storage, offset, sizes, strides, _, _, seventh = padded
    if len(args) < 4 or not isinstance(storage, Storage):
        raise ValueError("its description is malformed")
    shape, strides = checked_shape(sizes), checked_shape(strides)
    if type(offset) is not int or offset < 0 or len(strides) != len(shape):
        raise ValueError("its offset or strides are malformed")
    if of == _TYPED:
        return _View(storage, _dtype(seventh), offset, shape, strides)
    if is_dict(seventh) and any(flag for _, flag in seventh.pairs[:_MAX_FLAGS]):
        raise ValueError("it is a conjugate or negative view: save it after `.resolve_conj()`")
    return _View(storage, np.dtype(storage.dtype), offset, shape, strides)


def _tensor(where: Bytes, view: _View) -> tuple[Lazy, Any]:
    """The tensor, and what it has in common with its aliases only."""
    storage, unit, step = view.storage, view.dtype.itemsize, np.dtype(view.storage.dtype).itemsize
    held = storage.size * step // unit
    if view.offset + view.reach > held:
        raise ValueError(
            f"its {list(view.shape)} with strides {list(view.strides)} from {view.offset:,} on "
            f"pass the end of storage {storage.key!r}, which has {held:,} elements"
        )
    nbytes = prod(view.shape) * unit
    if nbytes > where.path.stat().st_size:
        raise ValueError("it repeats its elements past the size of the file: save a `.clone()`")
    at = where.offset(storage) + storage.start * step + view.offset * unit
    lazy = Lazy(view.shape, view.dtype.name, nbytes, _reader(where, at, view))
    strides = tuple(s for n, s in zip(view.shape, view.strides, strict=True) if n > 1)
    return lazy, (storage.key, at, view.shape, strides, view.dtype.name)


def _reader(where: Bytes, at: int, view: _View) -> Callable[[], np.ndarray]:
    dtype = view.dtype
    # NumPy swaps and strides its own dtypes only: the others' bits go as whole numbers.
    stored = dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")
    steps = tuple(stride * dtype.itemsize for stride in view.strides)

    def read() -> np.ndarray:
        if not view.reach:
            return np.zeros(view.shape, dtype)
        order = stored.newbyteorder(where.order)
        flat = np.fromfile(where.path, order, count=view.reach, offset=at)
        if flat.size != view.reach:
            raise ValueError(f"{where.path} has become shorter since it was opened.")
        seen = np.lib.stride_tricks.as_strided(flat, view.shape, steps)
        return seen.astype(stored, order="C").view(dtype)

    return read


def _dtype(value: Any) -> np.dtype:
    if not isinstance(value, Global) or value.module != "torch":
        raise ValueError("its dtype is malformed")
    return checked_dtype(_DTYPES.get(value.name, value.name))
