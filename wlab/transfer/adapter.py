"""An adapter as data: the size, scale and start of a low-rank change, and the axes it joins."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from wlab.transfer.axes import AxisSpec, Layout, layout
from wlab.transfer.starts import Start, he_uniform

Scaling: TypeAlias = Literal["classic", "rank_stabilized"]


@dataclass(frozen=True)
class Adapter:
    r"""The kernel is seen as $W + s A B$, where only A and B are trained.

    $s = \alpha/r$, or $\alpha/\sqrt r$ if rank-stabilized, which keeps the size of the
    activations and gradients of A B independent of the rank.

    Example:
        `Adapter(8, alpha=16)` for kernels (in, out); `in_axis=-1, out_axis=-2` for (out, in);
        `in_axis=0, out_axis=(1, 2)` for a projection (512, 8, 64) to heads; `batch_axis=0` for
        stacked layers. In a convolution (height, width, in, out) the window counts as input.

    Attributes:
        rank: r, at least 1.
        alpha: α; None is the rank, so that s is 1 in the classic scaling.
        scaling: "classic" or "rank_stabilized".
        start: `he_uniform`, `gaussian`, `embedding` or `pissa`.
        magnitude: Train the length of each output's weights apart from their direction (DoRA).
        dtype: Of what is trained; None is the kernel's own. A bfloat16 kernel loses small
            updates, float32 factors on it do not.
        in_axis: Input axis or axes.
        out_axis: Output axis or axes.
        batch_axis: Axes along which independent layers are stacked.

    Reference:
        Hu et al. 2021 (arXiv:2106.09685), equation 3; Kalajdzievski 2023 (arXiv:2312.03732)
        for the square root.
    """

    rank: int
    _: KW_ONLY
    alpha: float | int | None = None
    scaling: Scaling = "classic"
    start: Start = he_uniform
    magnitude: bool = False
    dtype: Any = None
    in_axis: AxisSpec = -2
    out_axis: AxisSpec = -1
    batch_axis: AxisSpec = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"Adapter: the rank must be at least 1, got {self.rank}.")
        if self.alpha is not None and not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ValueError(f"Adapter: alpha must be positive and finite, got {self.alpha}.")
        if self.scaling not in get_args(Scaling):
            raise ValueError(
                f"Adapter: scaling must be one of {get_args(Scaling)}, got {self.scaling!r}."
            )

    @property
    def scale(self) -> float:
        """s, the factor of A B."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (self.rank if self.scaling == "classic" else math.sqrt(self.rank))

    def layout(self, shape: Sequence[int]) -> Layout:
        """The roles of the axes of a kernel of this shape.

        Raises:
            ValueError: If an axis is not there or is declared twice, or the rank is too large.
        """
        axes = {"in_axis": self.in_axis, "out_axis": self.out_axis, "batch_axis": self.batch_axis}
        return layout(shape, self.rank, **axes)


dora = partial(Adapter, magnitude=True)
