"""A vision transformer: an image is cut into patches, which are read like words."""

from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wlab.models.block import Attention, FeedForward
from wlab.models.encoder import Encoded
from wlab.models.layers import Embed, Initializer, LayerNorm, Linear, Norm, normal
from wlab.models.model import Model, from_nnx

_Images: TypeAlias = Float[Array, "batch rows columns channels"]


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a vision transformer.

    Attributes:
        layers: Number of blocks.
        width: Size of the residual stream.
        heads: Attention heads; divides `width`.
        image_size: Height and width of the images, pixels.
        patch: Height and width of a patch, pixels; divides `image_size`.
        ffn: Hidden units of the feed-forward part; 0 stands for 4 × `width`.
        classes: Number of outputs; 0 stands for no head.
        pooler: Whether a layer and a tanh stand behind the class token's state.
        qkv_biases: Whether queries, keys and values have biases.
        channels: Of the images.
        epsilon: Added to the variance in the norms.
    """

    layers: int
    width: int
    heads: int
    image_size: int
    patch: int
    ffn: int = 0
    classes: int = 0
    pooler: bool = False
    qkv_biases: bool = True
    channels: int = 3
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}).")
        refuse_patch(self.image_size, self.patch)


def refuse_patch(image_size: int, patch: int) -> None:
    """Raises if patches of this size do not fill the image.

    Raises:
        ValueError: Naming both.
    """
    if image_size % patch:
        raise ValueError(f"image_size ({image_size}) must be a multiple of patch ({patch}).")


class Patches(nnx.Module):
    """An image to vectors: a class token, then the patches row by row, each with its place."""

    def __init__(
        self,
        width: int,
        *,
        image_size: int,
        patch: int,
        channels: int = 3,
        use_bias: bool = True,
        init: Initializer,
        rngs: nnx.Rngs,
    ):
        window = (patch, patch)
        self.patch = nnx.Conv(
            channels,
            width,
            window,
            window,
            padding="VALID",
            use_bias=use_bias,
            kernel_init=init,
            rngs=rngs,
        )
        self.cls = Embed(1, width, init=init, rngs=rngs)
        self.position = Embed(1 + (image_size // patch) ** 2, width, init=init, rngs=rngs)
        self.shape = (image_size, image_size, channels)

    def __call__(self, images: _Images) -> Float[Array, "batch time width"]:
        """Adds the places to the patches.

        Raises:
            ValueError: If the images have another size, or their channels are not the last axis.
        """
        if images.shape[1:] != self.shape:
            found, wanted = ("×".join(map(str, s)) for s in (images.shape[1:], self.shape))
            raise ValueError(
                f"The images are {found}, the model reads {wanted} (rows, columns, channels): "
                "resize them, or its positions by `resized_positions`."
            )
        x = self.patch(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        # Zeros in front, to which the class token is added: nothing is copied for each image.
        token = jnp.pad(self.cls.embedding[...], ((0, x.shape[1]), (0, 0)))
        places = self.position.embedding[...] + token
        return jnp.pad(x, ((0, 0), (1, 0), (0, 0))) + places[None]


def resized_positions(
    table: Float[Array, "places width"], side: int
) -> Float[Array, "new_places width"]:
    """Positions for `side` × `side` patches: bicubic over the grid, the class token's as it was.

    Keys' kernel has a = -1/2 here, -3/4 in PyTorch; where the grid shrinks, it is widened.

    Example:
        A network for 384 pixels from one for 224, patches of 16: replace the leaf
        `embed/position/embedding` by `resized_positions(leaf, 24)` and, in the config,
        `image_size` by 384.

    Raises:
        ValueError: If the table is not that of a square grid and a class token.

    Reference:
        Dosovitskiy et al. 2021 (arXiv:2010.11929), §3.2; Keys 1981, "Cubic convolution
        interpolation for digital image processing", eq. 15.
    """
    old = round((table.shape[0] - 1) ** 0.5)
    if table.shape[0] != 1 + old**2:
        raise ValueError(
            f"resized_positions: {table.shape[0]} rows are no square grid and a class token."
        )
    grid = table[1:].reshape(old, old, -1)
    grid = jax.image.resize(grid, (side, side, grid.shape[-1]), "bicubic")
    return jnp.concatenate([table[:1], grid.reshape(side**2, -1)])


class _Block(nnx.Module):
    """Normed before each part; biases of q, k and v may lack where all others are."""

    def __init__(self, config: ViTConfig, *, linear: Linear, bare: Linear, norm: Norm):
        self.attn = Attention(config.width, config.heads, inner=bare, outer=linear, causal=False)
        self.ffn = FeedForward(
            config.width,
            config.ffn or 4 * config.width,
            inner=linear,
            outer=linear,
            activation=partial(jax.nn.gelu, approximate=False),
        )
        self.norm_1, self.norm_2 = norm(config.width), norm(config.width)

    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        x = x + self.attn(self.norm_1(x))
        return x + self.ffn(self.norm_2(x))


class ViT(nnx.Module):
    """Images to logits, or to a vector for each patch and one for all."""

    def __init__(self, config: ViTConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        width = config.width
        linear = partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs)
        bare = partial(linear, use_bias=config.qkv_biases)
        norm = partial(LayerNorm, epsilon=config.epsilon)
        self.embed = Patches(
            width,
            image_size=config.image_size,
            patch=config.patch,
            channels=config.channels,
            init=kernel_init,
            rngs=rngs,
        )
        self.layers = config.layers
        for i in range(config.layers):
            setattr(self, f"block_{i}", _Block(config, linear=linear, bare=bare, norm=norm))
        self.norm = norm(width)
        if config.pooler:
            self.pool = linear(width, width)
        if config.classes:
            self.head = linear(width, config.classes)

    def __call__(self, images: _Images) -> Float[Array, "batch classes"] | Encoded:
        encoded = self.features(images)
        return self.head(encoded.pooled) if hasattr(self, "head") else encoded

    def features(self, images: _Images) -> Encoded:
        """A vector for the class token and each patch, and one for the image."""
        x = self.embed(images)
        for i in range(self.layers):
            x = getattr(self, f"block_{i}")(x)
        x = self.norm(x)
        pooled = jnp.tanh(self.pool(x[:, 0])) if hasattr(self, "pool") else x[:, 0]
        return Encoded(x, pooled)


def vit(config: ViTConfig, *, kernel_init: Initializer = normal(0.02)) -> Model:  # noqa: B008
    """A vision transformer: `apply(params, images) -> logits`, or `Encoded` if it has no head.

    With `method="features"` it gives `Encoded` also where it has one: the states of the class token
    and the patches, and what the head reads. That is the class token's state, or what the pooler
    makes of it. Images of another size are an error, see `resized_positions`.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels, tables and the class token.

    Reference:
        Dosovitskiy et al. 2021 (arXiv:2010.11929), eqs. 1-4; the pooler is the hidden layer of its
        head at pre-training time (§3.1).
    """
    return from_nnx(lambda rngs: ViT(config, kernel_init=kernel_init, rngs=rngs))
