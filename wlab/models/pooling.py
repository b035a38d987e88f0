"""Maps made half as tall and wide."""

from jaxtyping import Array, Float


def halved(
    maps: Float[Array, "batch height width channels"],
) -> Float[Array, "batch _rows _columns channels"]:
    """The largest entry of each 2 × 2; an odd last row or column is dropped.

    The same as max pooling with windows, whose gradient takes XLA six times as long on a CPU.
    Equal entries share the gradient; there the first one gets all.
    """
    batch, height, width, channels = maps.shape
    rows, columns = height // 2, width // 2
    tiles = maps[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    return tiles.max((2, 4))
