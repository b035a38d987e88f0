"""One product of a leaf with something else, as an operation sees it that takes its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from wlab.graph.devices import varied
from wlab.graph.entries import (
    arranged_as,
    entries_of,
    leading,
    of_one_turn,
    sizes_taken,
    taken,
)
from wlab.graph.evaluating import bound
from wlab.graph.held import Held, is_array
from wlab.graph.multiplying import matrix_of, result_of
from wlab.graph.operands import rows_of
from wlab.graph.use import Use


@dataclass(frozen=True)
class Product:
    """A product or a convolution of a leaf with an operand that depends on the inputs.

    Attributes:
        use: Of the leaf, of the graph.
        equation: In the function that was read.
        operands: What the equation has there; in the leaf's place maybe what `params` hold.
    """

    use: Use
    equation: Any
    operands: Sequence[Any]

    @property
    def operand(self) -> Array:
        """What the leaf is multiplied with, in the function's own axes."""
        return self.operands[1 - self.use.operand]

    @property
    def weight(self) -> Any:
        """What `params` hold for the leaf, in the leaf's own axes, without those of loops.

        Of the array that was read, the entries that are used here, as the function computes and
        casts them. Of anything else, each array as it is; only of its first axes, if a loop runs
        over them or the function takes one position of them, the part that is used here.
        """
        own, view = self.operands[self.use.operand], self.use.view
        if not isinstance(own, Held):
            return entries_of(of_one_turn(view), own)
        return jax.tree.map(lambda x: x[leading(view)], own.value)

    @property
    def rows(self) -> Float[Array, "*batch rows inputs"]:
        """The operand as a matrix; of a convolution its patches, groups being a batch.

        Columns are in the order of the leaf's own axes, as in `capture` and `to_matrix`.
        """
        return rows_of(self.use, self.equation, self.operand)

    def matrix(self, weight: Array | None = None) -> Shaped[Array, "*batch inputs outputs"]:
        """The leaf as a matrix, or an array in its place, as in `to_matrix`.

        Args:
            weight: Shaped as the leaf in one turn of the loops, or as the entries used here.

        Raises:
            ValueError: If `params` hold no array for it, or the shape is another.
        """
        return matrix_of(self.use, self.equation, self._own(weight))

    def result(self, matrix: Shaped[Array, "*batch rows outputs"]) -> Array:
        """What the function goes on with, from rows by outputs.

        Raises:
            ValueError: If that has another shape.
        """
        return result_of(self.use, self.equation, matrix)

    def apply(self, *, operand: Array | None = None, weight: Array | None = None) -> Array:
        """The product as the function computes it, with another operand or weight.

        Both are cast to what the function multiplies.

        Args:
            operand: In place of `operand`, of that shape.
            weight: As in `matrix`.

        Raises:
            ValueError: If a shape is another, or `params` hold no array and none is given.
        """
        x = self.operand if operand is None else operand
        if jnp.shape(x) != self.operand.shape:
            raise ValueError(
                f"{self.use.path!r}: its operand has shape {self.operand.shape}; what takes the "
                f"place of that has {jnp.shape(x)}."
            )
        pair = (self._own(weight), x) if self.use.operand == 0 else (x, self._own(weight))
        typed = zip(pair, self.equation.invars, strict=True)
        typed = ((jnp.asarray(x).astype(v.aval.dtype), v.aval) for x, v in typed)
        return bound(self.equation, [varied(x, aval) for x, aval in typed])[0]

    def _own(self, weight: Array | None) -> Array:
        """The leaf, or an array for it, as the equation has it."""
        own, view = self.operands[self.use.operand], of_one_turn(self.use.view)
        if weight is None and not isinstance(own, Held):
            return own
        shape, part = None if weight is None else jnp.shape(weight), sizes_taken(view)
        if weight is None or shape not in (view.shape, part):
            raise ValueError(
                f"{self.use.path!r}: its {self.use.primitive} needs an array of shape "
                f"{view.shape}, got {'none' if shape is None else shape}: give `weight`."
            )
        return arranged_as(view, weight if shape == part else taken(view, weight))


Operation = Callable[[Product], Array]


def matmul(f: Callable[[Array, Any], Array]) -> Operation:
    """Computes a product by `f(rows, weight)` in matrices: rows by inputs, inputs by outputs.

    Batches of products, as of experts and groups of channels, have their axes in front. A
    convolution comes as the product of its patches. Inputs and outputs are in the order of the
    leaf's own axes, as in `to_matrix`. The weight is the leaf's matrix if `params` hold an array
    of its shape, else what they hold: see `Product.weight`. The result is cast to what the
    function has.
    """

    def operation(product: Product) -> Array:
        weight, view = product.weight, of_one_turn(product.use.view)
        if is_array(weight) and weight.shape in (view.shape, sizes_taken(view)):
            held = isinstance(product.operands[product.use.operand], Held)
            weight = product.matrix(weight if held else None)
        return product.result(f(product.rows, weight))

    return operation


def before(f: Callable[[Array], Array]) -> Operation:
    """Leaves a product in place, and gives it `f(operand)`: of the same shape, in the same axes."""
    return lambda product: product.apply(operand=f(product.operand))
