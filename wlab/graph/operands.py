"""What a leaf is multiplied with, in one form: a matrix whose columns go as the leaf's axes do."""

from math import prod
from typing import Any

import jax
from jaxtyping import Array, Float

from wlab.graph.axes import Atom, Axis
from wlab.graph.use import Use

PRODUCTS = ("dot_general", "conv_general_dilated")


def rows_of(use: Use, equation: Any, x: Array) -> Float[Array, "*batch rows features"]:
    """The other operand of a product, with a column for each entry that is summed over.

    Columns are in the order of the leaf's own axes, whatever was transposed or reshaped on the
    way: flattening `use.in_axes` of the leaf gives theirs. Batch axes go first, in the leaf's
    order too. Of a convolution, rows are the patches, and groups are a batch.
    """
    if use.primitive == "conv_general_dilated":
        return _patches(use, equation, x)
    contract, batch = (pair[1 - use.operand] for pair in equation.params["dimension_numbers"])
    free = [i for i in range(x.ndim) if i not in {*contract, *batch}]
    rows = prod(x.shape[i] for i in free)
    x = x.transpose(*batch, *free, *contract)
    x = x.reshape(prod(x.shape[: len(batch)]), rows, -1)
    x = in_leaf_order(x, use.contract)
    x = in_leaf_order(x.transpose(1, 2, 0), use.batch).transpose(2, 0, 1)
    return x.reshape(*sizes_of(use.batch), rows, x.shape[-1])


def _patches(use: Use, equation: Any, x: Array) -> Float[Array, "*batch rows features"]:
    """Each place of the window as a row."""
    params = equation.params
    numbers, kernel = params["dimension_numbers"], equation.invars[1].aval.shape
    window = [kernel[i] for i in numbers.rhs_spec[2:]]
    patches = jax.lax.conv_general_dilated_patches(
        x,
        window,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=jax.lax.Precision.HIGHEST,
    )
    batch, channels, *space = numbers.out_spec
    patches = patches.transpose(batch, *space, channels)
    features = kernel[numbers.rhs_spec[1]] * prod(window)
    patches = patches.reshape(-1, use.groups, features).transpose(1, 0, 2)
    found = in_leaf_order(patches, use.contract)
    return found if use.groups > 1 else found[0]


def in_leaf_order(x: Array, axes: tuple[Axis, ...]) -> Array:
    """The last axis, which is the product of `axes`, with its factors as the leaf has them."""
    atoms, order = _atoms_in_order(axes)
    kept = x.shape[:-1]
    x = x.reshape(*kept, *(atom.size for atom in atoms))
    x = x.transpose(*range(len(kept)), *(len(kept) + i for i in order))
    backwards = [len(kept) + at for at, i in enumerate(order) if atoms[i].stride < 0]
    return jax.numpy.flip(x, backwards).reshape(*kept, -1)


def from_leaf_order(x: Array, axes: tuple[Axis, ...]) -> Array:
    """The inverse of `in_leaf_order`."""
    atoms, order = _atoms_in_order(axes)
    kept = x.shape[:-1]
    x = x.reshape(*kept, *(atoms[i].size for i in order))
    x = jax.numpy.flip(x, [len(kept) + at for at, i in enumerate(order) if atoms[i].stride < 0])
    back = sorted(range(len(order)), key=lambda at: order[at])
    return x.transpose(*range(len(kept)), *(len(kept) + at for at in back)).reshape(*kept, -1)


def _atoms_in_order(axes: tuple[Axis, ...]) -> tuple[list[Atom], list[int]]:
    atoms = [atom for axis in axes for atom in axis]
    return atoms, sorted(range(len(atoms)), key=lambda i: place(atoms[i]))


def place(atom: Atom) -> tuple[bool, int, int]:
    """Repeated entries last; the leaf's axes in order, the slow factors of each first."""
    return atom.axis is None, -1 if atom.axis is None else atom.axis, -abs(atom.stride)


def sizes_of(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    """Of the factors of some axes, in the leaf's order."""
    atoms = sorted((atom for axis in axes for atom in axis), key=place)
    return tuple(atom.size for atom in atoms)
