"""What is merged: the weights of a model with its name, its ties and its vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


@runtime_checkable
class Readable(Protocol):
    """An array that stays in its file until it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what `read` gives."""
        ...

    @property
    def dtype(self) -> str:
        """Of what `read` gives, as `bfloat16`."""
        ...

    def read(self) -> np.ndarray:
        """Reads it into memory; nothing is kept."""
        ...


LeafLike: TypeAlias = Array | np.ndarray | Readable
Header: TypeAlias = LeafLike | jax.ShapeDtypeStruct


@dataclass(frozen=True)
class Parent:
    """A model to merge, with what must agree beside its weights.

    Attributes:
        weights: Any tree of arrays; in `merge_leaves` a mapping from paths to leaves.
        name: What errors and reports call it; None is `model 0`, `model 1`, … or `base`.
        ties: The source of each leaf that is not stored, by its path; None if not known.
        vocab: The tokens in the order of the rows of the embedding; None if not known.
    """

    weights: Any
    _: KW_ONLY
    name: str | None = None
    ties: Mapping[str, str] | None = None
    vocab: Sequence[str] | None = None


def named(model: Any, name: str) -> Parent:
    """The model as a `Parent` that has a name; a bare tree or mapping is its weights."""
    parent = model if isinstance(model, Parent) else Parent(model)
    return parent if parent.name is not None else replace(parent, name=name)


def shape_of(leaf: Header) -> tuple[int, ...]:
    """The shape, without reading."""
    return tuple(leaf.shape)


def dtype_of(leaf: Header) -> Any:
    """The dtype, without reading."""
    return jnp.dtype(leaf.dtype) if isinstance(leaf.dtype, str) else leaf.dtype


def is_float(leaf: Header) -> bool:
    """Whether the leaf holds real numbers that can be averaged."""
    return jnp.issubdtype(dtype_of(leaf), jnp.floating)


def raw(leaf: LeafLike) -> Array | np.ndarray:
    """The values as they are stored, read if they lie in a file."""
    return leaf.read() if isinstance(leaf, Readable) else leaf


def values(parent: Parent, path: str) -> Array:
    """The floats of one leaf as a JAX array.

    Raises:
        ValueError: If an entry is NaN or infinite, or JAX would cut float64 to float32.
    """
    leaf = parent.weights[path]
    if dtype_of(leaf) == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"merge: {path!r} of {parent.name!r} is float64, which JAX would cut to float32. "
            "Cast it first, or set jax_enable_x64."
        )
    array = jnp.asarray(raw(leaf))
    bad = array.size - int(jnp.count_nonzero(jnp.isfinite(array)))
    if bad:
        raise ValueError(
            f"merge: {path!r} of {parent.name!r} holds NaN or infinity in {bad} of {array.size} "
            "entries. Mend it, or leave it out of the merge by a rule (path, None)."
        )
    return array
