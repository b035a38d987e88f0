"""How a kernel for few rows is cut up."""

from dataclasses import dataclass

FEW = 16  # rows at most, and at least what a matrix unit takes


@dataclass(frozen=True)
class Launch:
    """How a kernel is cut up.

    Attributes:
        outputs: Of one program: a power of two.
        tiles: That one program has in hand at a time: a power of two; 1 in `by_dots`.
        splits: Into how many programs the inputs are split; their results are summed after.
        warps: Of 32 threads, of one program.
        stages: Of the loop's loads.
        in_place: Nibbles of a half word are not shifted; inputs are scaled ahead by what those
            are too large, which is exact but in float16. In float32 by `by_planes`.
    """

    outputs: int = 16
    tiles: int = 4
    splits: int = 1
    warps: int = 4
    stages: int = 3
    in_place: bool = False
