"""The moves of single layers as PyTorch lays them out, into a plain tree."""

from collections.abc import Iterator

from wlab.pretrained.name_map import Move, move
from wlab.pretrained.ops import Transpose


def linear(theirs: str, ours: str, *, bias: bool = True) -> Iterator[Move]:
    """Kernels stand as (out, in) in the file."""
    yield move(f"{theirs}.weight", f"{ours}/kernel", Transpose())
    if bias:
        yield move(f"{theirs}.bias", f"{ours}/bias")


def norm(theirs: str, ours: str) -> Iterator[Move]:
    """A norm with scale and bias."""
    yield move(f"{theirs}.weight", f"{ours}/scale")
    yield move(f"{theirs}.bias", f"{ours}/bias")
