"""Which shapes an array in memory can have at all."""

from math import prod

_MAX_DIMS, _MAX_SIZE = 32, 2**56  # NumPy 1 and 2 take these; files claim more


def can_be_held(shape: tuple[int, ...]) -> bool:
    """Whether NumPy has room for the shape, even with a zero in it."""
    return len(shape) <= _MAX_DIMS and prod(max(n, 1) for n in shape) <= _MAX_SIZE
