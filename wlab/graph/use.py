"""A use: one place in a function where the entries of a leaf meet something else."""

from dataclasses import dataclass
from math import prod

from wlab.graph.axes import Axis, length
from wlab.graph.view import View

Site = tuple[int | str, ...]  # of an equation: the indices of those around it, the outermost first


@dataclass(frozen=True)
class Use:
    """Where an operand is a leaf, or an arrangement of its entries.

    Attributes:
        site: Where the equation stands.
        primitive: What it does: `dot_general`, `conv_general_dilated`, `gather`, `add`, …; `output`
            where the function returns the leaf.
        operand: Which of its operands the leaf is.
        view: What the operand is to the leaf.
        contract: The operand's axes that are summed over with the other operand's.
        batch: Those that both operands have.
        free: Those that the result has from this operand.
        lookup: Those at which a `gather` reads chosen positions.
        groups: Of a convolution's channels.
        opaque: Whether nothing is known of the axes.
        partners: The leaves of the other operands, if they have any.
        alone: Whether no operand depends on the inputs.
    """

    site: Site
    primitive: str
    operand: int
    view: View
    contract: tuple[Axis, ...] = ()
    batch: tuple[Axis, ...] = ()
    free: tuple[Axis, ...] = ()
    lookup: tuple[Axis, ...] = ()
    groups: int = 1
    opaque: bool = False
    partners: tuple[str, ...] = ()
    alone: bool = False

    @property
    def path(self) -> str:
        """The leaf's."""
        return self.view.path

    @property
    def in_axes(self) -> tuple[int, ...]:
        """The leaf's axes that are summed over."""
        return _leaf_axes(self.contract)

    @property
    def out_axes(self) -> tuple[int, ...]:
        """The leaf's axes that the result has."""
        return _leaf_axes(self.free)

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """The leaf's axes that enumerate independent products, of experts or ensembles."""
        return _leaf_axes(self.batch)

    @property
    def lookup_axes(self) -> tuple[int, ...]:
        """The leaf's axes of which a `gather` chooses positions."""
        return _leaf_axes(self.lookup)

    @property
    def fan_in(self) -> int:
        """Of one output: how many products are summed."""
        return self.view.parts_of(self.in_axes) * prod(length(axis) for axis in self.contract)

    @property
    def fan_out(self) -> int:
        """Of one input: of how many outputs it is a part."""
        outputs = prod(length(axis) for axis in self.free) // self.groups
        window = self.contract[1:] if self.primitive == "conv_general_dilated" else ()
        parts = self.view.parts_of(self.out_axes)
        return parts * outputs * prod(length(axis) for axis in window)


def _leaf_axes(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    return tuple(sorted({atom.axis for axis in axes for atom in axis if atom.axis is not None}))
