"""The arrays of a quantized tree by name, and the schema that is saved with them.

The schema is plain JSON and says all that the arrays do not. What comes back from a file is
believed only after it has been checked. Codes are bytes, scales have their own width: nothing here
is of a dtype that a file format refuses.
"""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16 by name)
import numpy as np

from wlab import tree
from wlab.quantization.format_fields import format_fields, format_of
from wlab.quantization.formats import Format
from wlab.quantization.packing import packed_length
from wlab.quantization.qtensor import PARTS, QTensor, check, is_qtensor, zero_dtype
from wlab.quantization.scales import storage
from wlab.tree.paths import Tree

Schema: TypeAlias = dict[str, Any]
"""By path: `form` ("quantized"), `version`, `format` with all its fields, the `shape` and `dtype`
of the array, and its `groups`: `axis`, `size`, and the size of the `last` one."""

FORM, VERSION = "quantized", 1
_FIELDS = ("form", "version", "format", "shape", "dtype", "groups")
_MAX_DIMS, _MAX_SIZE = 32, 2**56  # NumPy 1 and 2 take these; files claim more


def to_arrays(quantized: Tree) -> tuple[dict[str, Any], Schema]:
    """The arrays to save, by name, and the schema to save with them.

    A QTensor becomes `path.codes`, `path.scale`, `path.zero_point` and `path.outer`, those that
    its format has and that are not empty; any other leaf keeps its path.

    Raises:
        ValueError: If a QTensor is not what its format says, or a leaf has the name of a part.
    """
    flat = jax.tree_util.tree_flatten_with_path(quantized, is_leaf=is_qtensor)[0]
    leaves = [(tree.path_name(key_path), leaf) for key_path, leaf in flat]
    schema: Schema = {}
    for path, leaf in leaves:
        if is_qtensor(leaf):
            check(leaf, path)
            schema[path] = leaf_fields(leaf.format, leaf.shape, leaf.dtype)
    refuse_taken([path for path, leaf in leaves if not is_qtensor(leaf)], schema)
    arrays: dict[str, Any] = {}
    for path, leaf in leaves:
        if is_qtensor(leaf):
            parts = {f"{path}.{part}": getattr(leaf, part) for part in PARTS}
            arrays |= {name: x for name, x in parts.items() if x is not None and x.size}
        else:
            arrays[path] = leaf
    return arrays, schema


def refuse_taken(plain: Iterable[str], quantized: Iterable[str]) -> None:
    """Raises if a plain leaf has the name of a part of a quantized one.

    Raises:
        ValueError: Naming it.
    """
    taken = {f"{path}.{part}" for path in quantized for part in PARTS}
    for path in plain:
        if path in taken:
            raise ValueError(f"to_arrays: two arrays have the name {path!r}; rename a leaf.")


def from_arrays(arrays: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_arrays`: each leaf by path, a QTensor, or another array as it came.

    Raises:
        ValueError: If the schema and the arrays do not belong together, or the schema is of
            another version, naming the leaf.
    """
    rest = dict(arrays)
    found = {path: _qtensor(path, fields, rest) for path, fields in schema.items()}
    for path in found:
        if path in rest:
            raise ValueError(f"{path!r} is both plain and in the schema of quantized leaves.")
    return rest | found


def leaf_fields(format: Format, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """What the schema says of a leaf of this shape and dtype."""
    groups = [
        {"axis": axis, "size": size, "last": shape[axis] % size or min(size, shape[axis])}
        for axis, size in format.groups(shape)
    ]
    stated = {"form": FORM, "version": VERSION, "format": format_fields(format)}
    return {**stated, "shape": list(shape), "dtype": dtype, "groups": groups}


def read_fields(path: str, fields: Any) -> tuple[Format, tuple[int, ...], str]:
    """The format, shape and dtype that a leaf's schema states.

    Raises:
        ValueError: If it states none that can be, or is of another version, naming the leaf.
    """
    if not isinstance(fields, Mapping) or fields.get("form") != FORM:
        raise ValueError(f"{path!r} is not a quantized leaf: {str(fields)[:200]}.")
    if fields.get("version") != VERSION:
        raise ValueError(
            f"{path!r} was written by version {str(fields.get('version'))[:20]} of the schema; "
            f"this wlab reads version {VERSION}: read it by the wlab that wrote it."
        )
    try:
        if set(fields) != set(_FIELDS):
            raise ValueError(f"its fields are {sorted(fields)[:12]}, not {sorted(_FIELDS)}")
        format, shape = format_of(fields["format"]), tuple(fields["shape"])
        dtype = np.dtype(str(fields["dtype"])).name
        if not all(type(n) is int and n >= 0 for n in shape) or not _can_be_held(shape):
            raise ValueError(f"no array has the shape {str(list(shape))[:200]}")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"{dtype} is not floating point")
        if leaf_fields(format, shape, dtype)["groups"] != fields["groups"]:
            raise ValueError(f"its groups are not {str(fields['groups'])[:200]}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path!r}: no quantized leaf has this schema: {error}.") from None
    return format, shape, dtype


def planned_parts(format: Format, shape: tuple[int, ...]) -> dict[str, tuple[Any, str]]:
    """The shape and the dtype of each part that an array of this shape will have.

    Raises:
        ValueError: If the array lacks the format's axis.
    """
    grid, scales = format.grid, format.scale_shape(shape)
    parts: dict[str, tuple[Any, str]] = {
        "codes": ((*shape[:-1], packed_length(shape[-1], grid.bits)), "uint8")
    }
    if grid.scaled:
        parts["scale"] = scales, storage(format.scale_dtype)
    if not grid.symmetric:
        parts["zero_point"] = scales, zero_dtype(format)
    if format.outer:
        parts["outer"] = (1,) * len(shape), "float32"
    return parts


def planned_bytes(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes of all parts, without there being an array; on disk and in memory alike.

    Raises:
        ValueError: If the array lacks the format's axis.
    """
    parts = planned_parts(format, shape).values()
    return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in parts)


def _qtensor(path: str, fields: Any, arrays: dict[str, Any]) -> QTensor:
    """Takes the parts of a leaf out of `arrays`."""
    format, shape, dtype = read_fields(path, fields)
    planned = planned_parts(format, shape)
    found = {part: arrays.pop(f"{path}.{part}", None) for part in PARTS}
    for part, (part_shape, part_dtype) in planned.items():
        if found[part] is None and prod(part_shape) == 0:
            found[part] = np.zeros(part_shape, part_dtype)
        if found[part] is None:
            raise ValueError(
                f"{path}.{part} is missing: {format} takes {', '.join(planned)}. The file is "
                "incomplete; write it again from its source."
            )
    for part, array in found.items():
        _refuse_other(f"{path}.{part}", array, planned.get(part))
    children = {part: None if x is None else jnp.asarray(x) for part, x in found.items()}
    return QTensor(**children, format=format, length=shape[-1], dtype=dtype)


def _refuse_other(name: str, array: Any, planned: tuple[Any, str] | None) -> None:
    found = None if array is None else (tuple(array.shape), np.dtype(array.dtype).name)
    if found != planned:
        wanted = "nothing" if planned is None else f"{planned[1]}{list(planned[0])}"
        seen = "nothing" if found is None else f"{found[1]}{list(found[0])}"
        raise ValueError(f"{name}: expected {wanted}, found {seen}; the file is damaged.")


def _can_be_held(shape: tuple[int, ...]) -> bool:
    return len(shape) <= _MAX_DIMS and prod(max(n, 1) for n in shape) <= _MAX_SIZE
