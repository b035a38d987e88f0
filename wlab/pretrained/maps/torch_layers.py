"""The moves of single layers as PyTorch lays them out, into `{"params": …, "model_state": …}`."""

from collections.abc import Iterator

from wlab.pretrained.maps import layers
from wlab.pretrained.name_map import Move, move
from wlab.pretrained.ops import Reshape, Transpose


def conv(theirs: str, ours: str, *, bias: bool = True) -> Iterator[Move]:
    """Kernels stand as (out, in, height, width) in the file."""
    yield move(f"{theirs}.weight", f"params/{ours}/kernel", Transpose((2, 3, 1, 0)))
    if bias:
        yield move(f"{theirs}.bias", f"params/{ours}/bias")


def norm(theirs: str, ours: str) -> Iterator[Move]:
    """BatchNorm with its running statistics."""
    yield from layers.norm(theirs, f"params/{ours}")
    yield move(f"{theirs}.running_mean", f"model_state/{ours}/mean")
    yield move(f"{theirs}.running_var", f"model_state/{ours}/var")


def linear(theirs: str, ours: str) -> Iterator[Move]:
    """Kernels stand as (out, in) in the file."""
    return layers.linear(theirs, f"params/{ours}")


def linear_on_maps(
    theirs: str, ours: str, *, side: int, channels: int, outputs: int
) -> Iterator[Move]:
    """A dense layer on flattened maps: its inputs are channels first in the file, last in the tree.

    Args:
        theirs: The layer's name in the file.
        ours: Its path in the tree.
        side: Height and width of the maps.
        channels: Of the maps.
        outputs: Of the layer.
    """
    flat, maps = (outputs, channels * side**2), (outputs, channels, side, side)
    yield move(
        f"{theirs}.weight",
        f"params/{ours}/kernel",
        Reshape(flat, maps),
        *flattened(side, channels, outputs),
    )
    yield move(f"{theirs}.bias", f"params/{ours}/bias")


def flattened(side: int, channels: int, outputs: int) -> tuple[Transpose, Reshape]:
    """From a convolution that covers whole maps to a dense kernel on maps with channels last."""
    window = (side, side, channels, outputs)
    return Transpose((2, 3, 1, 0)), Reshape(window, (side**2 * channels, outputs))
