"""The entries of a leaf that a view holds: taken from the leaf, arranged as the view, and back."""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from wlab.graph.axes import Atom, Axis
from wlab.graph.operands import place
from wlab.graph.view import View


def leading(view: View) -> tuple[int, ...]:
    """The positions at which the first axes are read, after those over which loops run."""
    index, first = dict(view.index), len(view.stack)
    if view.stack != tuple(range(first)):
        return ()
    found: list[int] = []
    while first + len(found) in index:
        found.append(index[first + len(found)])
    return tuple(found)


def of_one_turn(view: View) -> View:
    """The view of what one turn of the loops has, at the positions of `leading`.

    Of a leaf that is cut over devices, the part of one device is the leaf.
    """
    first = len(view.stack)
    gone = {*view.stack, *range(first, first + len(leading(view)))}
    left = [i for i in range(len(view.shape)) if i not in gone]
    new = {old: i for i, old in enumerate(left)}

    def renumbered(axis: Axis) -> Axis:
        kept = (atom for atom in axis if atom.axis not in gone)
        return tuple(a if a.axis is None else a._replace(axis=new[a.axis]) for a in kept)

    return replace(
        view,
        shape=tuple(view.part[i] for i in left),
        offsets=tuple(view.offsets[i] for i in left),
        axes=tuple(renumbered(axis) for axis in view.axes),
        stack=(),
        loops=(),
        cuts=(),
    )


def taken(view: View, leaf: Array) -> Array:
    """The entries of the leaf that the view holds, in the leaf's own axes and order."""
    for i in range(leaf.ndim):
        at = _positions(view, i)
        steps = np.unique(np.diff(at))
        if len(at) == leaf.shape[i]:
            continue
        if len(steps) < 2:
            step = int(steps[0]) if len(steps) else 1
            leaf = jax.lax.slice_in_dim(leaf, int(at[0]), int(at[-1]) + 1, step, axis=i)
        else:
            leaf = jnp.take(leaf, at, axis=i)
    return leaf


def arranged_as(view: View, entries: Array) -> Array:
    """The value of a view, from the entries that `taken` gives."""
    atoms, own = _atoms(view)
    x = entries.reshape([atoms[i].size for i in own])
    x = jnp.flip(x, [at for at, i in enumerate(own) if atoms[i].stride < 0])
    x = x.transpose([own.index(i) for i in sorted(own)])
    x = x.reshape([1 if atom.axis is None else atom.size for atom in atoms])
    return jnp.broadcast_to(x, [atom.size for atom in atoms]).reshape(view.sizes)


def entries_of(view: View, value: Array) -> Array:
    """The entries in the leaf's own axes and order: the inverse of `arranged_as`."""
    atoms, own = _atoms(view)
    x = value.reshape([atom.size for atom in atoms])
    for i in reversed(range(len(atoms))):
        if atoms[i].axis is None:
            x = jax.lax.index_in_dim(x, 0, axis=i, keepdims=False)
    x = x.transpose([sorted(own).index(i) for i in own])
    x = jnp.flip(x, [at for at, i in enumerate(own) if atoms[i].stride < 0])
    return x.reshape(sizes_taken(view))


def sizes_taken(view: View) -> tuple[int, ...]:
    """Of each of the leaf's axes, how many positions the view holds."""
    atoms, _ = _atoms(view)
    of_axis = (prod(a.size for a in atoms if a.axis == i) for i in range(len(view.shape)))
    return tuple(of_axis)


def _atoms(view: View) -> tuple[list[Atom], list[int]]:
    """All factors, and which of them are the leaf's, in its order."""
    atoms = [atom for axis in view.axes for atom in axis]
    own = [i for i, atom in enumerate(atoms) if atom.axis is not None]
    return atoms, sorted(own, key=lambda i: place(atoms[i]))


def _positions(view: View, axis: int) -> np.ndarray:
    """The positions on an axis of the leaf that the view holds, in ascending order."""
    atoms, own = _atoms(view)
    at = np.array([view.offsets[axis]])
    for atom in (atoms[i] for i in own if atoms[i].axis == axis):
        turns = np.arange(atom.size) * atom.stride
        at = (at[:, None] + np.sort(turns)[None]).reshape(-1)
    return at
