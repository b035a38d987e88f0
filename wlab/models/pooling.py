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
    whole = maps[:, : 2 * rows, : 2 * columns]
    # An axis at a time: JAX types no reshape that splits two, where the batch lies on a mesh.
    tall = whole.reshape(batch, rows, 2, 2 * columns, channels)
    return tall.reshape(batch, rows, 2, columns, 2, channels).max((2, 4))
