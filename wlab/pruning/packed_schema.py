"""The arrays of a sparse tree by name, and the schema that is saved with them.

The schema is plain JSON and says all that the arrays do not. What comes back from a file is
believed only after it has been checked.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

import jax
import numpy as np

from wlab import tree
from wlab.pruning.forms import NM, Bitmask, Form, group_shape
from wlab.pruning.packed import Sparse, check_sparse
from wlab.pruning.packed_trees import is_sparse
from wlab.tree.paths import Tree

Schema: TypeAlias = dict[str, Any]
"""By path: `form` ("bitmask", or "nm" with `keep`, `of`, `axis`), `shape` and `dtype`."""

PARTS = ("positions", "values")
_MAX_DIMS, _MAX_SIZE = 32, 2**56  # NumPy 1 and 2 take these; files claim more
_MAX_ITEM = 16  # bytes of complex128


def to_arrays(packed: Tree) -> tuple[dict[str, Any], Schema]:
    """The arrays to save, by name, and the schema to save with them.

    A Sparse becomes `path.positions` and `path.values`, left out where empty; any other leaf
    keeps its path.

    Raises:
        ValueError: If two arrays would have the same name.
    """
    arrays, schema = {}, {}
    flat = jax.tree_util.tree_flatten_with_path(packed, is_leaf=is_sparse)[0]
    for path, leaf in ((tree.path_name(key_path), leaf) for key_path, leaf in flat):
        named = {path: leaf}
        if is_sparse(leaf):
            schema[path] = _fields(leaf)
            parts = {f"{path}.{part}": getattr(leaf, part) for part in PARTS}
            named = {name: array for name, array in parts.items() if array.size}
        for name, array in named.items():
            if name in arrays:
                raise ValueError(f"to_arrays: two arrays have the name {name!r}; rename a leaf.")
            arrays[name] = array
    return arrays, schema


def from_arrays(arrays: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_arrays`: each leaf by path, a Sparse or an array as it came.

    Raises:
        ValueError: If the schema and the arrays do not belong together, naming the leaf.
    """
    rest = dict(arrays)
    found = {path: _sparse(path, fields, rest) for path, fields in schema.items()}
    for path in found:
        if path in rest:
            raise ValueError(f"{path!r} is both dense and in the schema of sparse leaves.")
    return rest | found


def read_fields(path: str, fields: Any) -> tuple[Form, tuple[int, ...], np.dtype]:
    """The form, shape and dtype that a leaf's schema states.

    Raises:
        ValueError: If it states none that can be, naming the leaf.
    """
    try:
        form, shape, dtype = _form(fields), tuple(fields["shape"]), np.dtype(str(fields["dtype"]))
        can_be = all(type(n) is int and n >= 0 for n in shape) and _can_be_held(shape, dtype)
        if can_be and isinstance(form, NM):
            group_shape(shape, form)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path!r}: no leaf is {str(fields)[:200]}: {error!r}.") from None
    if not can_be:
        raise ValueError(f"{path!r}: no array is {str(fields)[:200]}.")
    return form, shape, dtype


def _sparse(path: str, fields: Any, arrays: dict[str, Any]) -> Sparse:
    """Takes the parts of a leaf out of `arrays`."""
    form, shape, dtype = read_fields(path, fields)
    empty = {"positions": np.zeros(0, np.uint8), "values": _no_values(form, shape, dtype)}
    parts = {part: arrays.pop(f"{path}.{part}", empty[part]) for part in PARTS}
    if parts["values"].dtype != dtype:
        raise ValueError(
            f"{path}.values: expected {dtype.name}, found {parts['values'].dtype.name}."
        )
    sparse = Sparse(**parts, form=form, shape=shape)
    try:
        check_sparse(sparse, path)
    except ValueError as error:
        raise ValueError(f"{error} Its schema is {fields}; the file is damaged.") from None
    return sparse


def _no_values(form: Form, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What a part that was left out stands for."""
    if isinstance(form, Bitmask) or prod(shape):
        return np.zeros(0, dtype)
    return np.zeros((*group_shape(shape, form), form.keep), dtype)


def _fields(sparse: Sparse) -> dict[str, Any]:
    form = sparse.form
    how = {"form": "bitmask"} if isinstance(form, Bitmask) else {"form": "nm", **vars(form)}
    return {**how, "shape": list(sparse.shape), "dtype": np.dtype(sparse.values.dtype).name}


def _can_be_held(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    size = prod(max(n, 1) for n in shape)
    return len(shape) <= _MAX_DIMS and size <= _MAX_SIZE and dtype.itemsize <= _MAX_ITEM


def _form(fields: Any) -> Form:
    match fields["form"]:
        case "bitmask":
            return Bitmask()
        case "nm":
            numbers = [fields[name] for name in ("keep", "of", "axis")]
            if not all(type(n) is int for n in numbers):
                raise ValueError(f"keep, of and axis are {numbers}, not whole numbers")
            return NM(*numbers)
        case other:
            raise ValueError(f"the form {other!r} is unknown")
