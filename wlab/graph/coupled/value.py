"""What is known of a value while a function is walked."""

from dataclasses import dataclass, replace
from typing import Any

from wlab.graph.coupled.ledger import Axis


@dataclass(frozen=True)
class Value:
    """Its axes, and along which of them nothing but zeros stands where a position is masked.

    Attributes:
        axes: The positions of each.
        zero: The axes whose masked positions hold zeros: a weight's own, and what is computed
            from zeros alone by functions that are zero at zero.
        fill: The one number that stands everywhere, where that is known.
    """

    axes: tuple[Axis, ...]
    zero: frozenset[int] = frozenset()
    fill: Any = None

    def along(self, *dimensions: int) -> "Value":
        """With these of its axes, in this order."""
        kept = (at for at, i in enumerate(dimensions) if i in self.zero)
        axes = tuple(self.axes[i] for i in dimensions)
        return replace(self, axes=axes, zero=frozenset(kept))

    def with_axis(self, i: int, axis: Axis) -> "Value":
        """With another axis in place of one."""
        return replace(self, axes=(*self.axes[:i], axis, *self.axes[i + 1 :]))
