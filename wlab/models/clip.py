"""CLIP: two towers that lay images and texts into one space."""

import math
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wlab.models.block import Block
from wlab.models.layers import (
    ActivationName,
    Embed,
    Initializer,
    LayerNorm,
    activation_of,
    normal,
    positions,
)
from wlab.models.model import Model, from_nnx
from wlab.models.vit import Patches, refuse_patch

_Images: TypeAlias = Float[Array, "images rows columns channels"]
_Tokens: TypeAlias = Int[Array, "texts time"]
_Mask: TypeAlias = Bool[Array, "texts time"]
_COLDNESS = math.log(1 / 0.07)  # at the start of training, §2.5


@dataclass(frozen=True)
class Tower:
    """Sizes of one tower.

    Attributes:
        layers: Number of blocks.
        width: Size of the residual stream.
        heads: Attention heads; divides `width`.
        ffn: Hidden units of the feed-forward part; 0 stands for 4 × `width`.
        activation: Of the feed-forward part; OpenAI's networks have `quick_gelu`.
        epsilon: Added to the variance in the norms.
    """

    layers: int
    width: int
    heads: int
    ffn: int = 0
    activation: ActivationName = "quick_gelu"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}).")
        activation_of(self.activation)


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both towers and of their common space.

    Attributes:
        text: The tower for texts.
        vision: The tower for images.
        features: Size of the common space.
        vocab: Number of tokens.
        context: Longest text, tokens.
        image_size: Height and width of the images, pixels.
        patch: Height and width of a patch, pixels; divides `image_size`.
        end: The token at which a text is summed up, the first one if there are several; None
            stands for the token with the highest number.
    """

    text: Tower
    vision: Tower
    features: int
    vocab: int
    context: int
    image_size: int
    patch: int
    end: int | None = None

    def __post_init__(self) -> None:
        refuse_patch(self.image_size, self.patch)
        if self.end is not None and not 0 <= self.end < self.vocab:
            raise ValueError(f"end ({self.end}) must be one of the {self.vocab} tokens of vocab.")


class _Text(nnx.Module):
    """Texts to features."""

    def __init__(self, config: CLIPConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        tower, table = config.text, partial(Embed, init=kernel_init, rngs=rngs)
        self.embed = table(config.vocab, tower.width)
        self.position = table(config.context, tower.width)
        self.layers, self.end = tower.layers, config.end
        for i in range(tower.layers):
            setattr(self, f"block_{i}", _block(tower, True, kernel_init=kernel_init, rngs=rngs))
        self.norm = LayerNorm(tower.width, epsilon=tower.epsilon)
        self.project = _projection(tower, config, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, tokens: _Tokens, mask: _Mask | None) -> Float[Array, "texts features"]:
        x = self.embed(tokens) + positions(self.position, tokens.shape[1])
        for i in range(self.layers):
            x = getattr(self, f"block_{i}")(x, mask)
        return self.project(_at_first(self.norm(x), self._ends(tokens)))

    def _ends(self, tokens: _Tokens) -> _Mask:
        return tokens == (tokens.max(-1, keepdims=True) if self.end is None else self.end)


class _Vision(nnx.Module):
    """Images to features."""

    def __init__(self, config: CLIPConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        tower, norm = config.vision, partial(LayerNorm, epsilon=config.vision.epsilon)
        self.embed = Patches(
            tower.width,
            image_size=config.image_size,
            patch=config.patch,
            use_bias=False,
            init=kernel_init,
            rngs=rngs,
        )
        self.norm_in = norm(tower.width)
        self.layers = tower.layers
        for i in range(tower.layers):
            setattr(self, f"block_{i}", _block(tower, False, kernel_init=kernel_init, rngs=rngs))
        self.norm = norm(tower.width)
        self.project = _projection(tower, config, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, images: _Images) -> Float[Array, "images features"]:
        x = self.norm_in(self.embed(images))
        for i in range(self.layers):
            x = getattr(self, f"block_{i}")(x)
        return self.project(self.norm(x[:, 0]))


class CLIP(nnx.Module):
    """Images and texts to the scaled cosine of each with each."""

    def __init__(self, config: CLIPConfig, *, kernel_init: Initializer, rngs: nnx.Rngs):
        self.text = _Text(config, kernel_init=kernel_init, rngs=rngs)
        self.vision = _Vision(config, kernel_init=kernel_init, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.float32(_COLDNESS))

    def __call__(
        self, images: _Images, tokens: _Tokens, *, mask: _Mask | None = None
    ) -> Float[Array, "images texts"]:
        one, other = _unit(self.vision(images)), _unit(self.text(tokens, mask))
        return jnp.exp(self.logit_scale[...]) * (one @ other.T)

    def encode_image(self, images: _Images) -> Float[Array, "images features"]:
        """A vector an image, of any length."""
        return self.vision(images)

    def encode_text(
        self, tokens: _Tokens, *, mask: _Mask | None = None
    ) -> Float[Array, "texts features"]:
        """A vector a text, of any length."""
        return self.text(tokens, mask)


def clip(config: CLIPConfig, *, kernel_init: Initializer = normal(0.02)) -> Model:  # noqa: B008
    r"""Two towers: `apply(params, images, tokens, mask=None) -> logits`, images × texts.

    $e^s \cos(f_i, g_j)$ with a learned $s$. With `method="encode_image"`,
    `apply(params, images, method=…)` gives the features $f$, with `method="encode_text"`,
    `apply(params, tokens, mask=None, method=…)` gives $g$; neither is normed.

    A text's features stand at its end token; a text without one reads as NaN. `mask` is false for
    padding, which must stand behind the text.

    Args:
        config: The sizes.
        kernel_init: `(key, shape, dtype) -> array`, for kernels, tables and the class token.

    Reference:
        Radford et al. 2021 (arXiv:2103.00020), §2.4 and Figure 3.
    """
    return from_nnx(lambda rngs: CLIP(config, kernel_init=kernel_init, rngs=rngs))


def _block(tower: Tower, causal: bool, *, kernel_init: Initializer, rngs: nnx.Rngs) -> Block:
    linear = partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs)
    return Block(
        tower.width,
        tower.heads,
        tower.ffn or 4 * tower.width,
        inner=linear,
        outer=linear,
        norm=partial(LayerNorm, epsilon=tower.epsilon),
        activation=activation_of(tower.activation),
        causal=causal,
        norm_first=True,
    )


def _projection(
    tower: Tower, config: CLIPConfig, *, kernel_init: Initializer, rngs: nnx.Rngs
) -> nnx.Linear:
    return nnx.Linear(
        tower.width, config.features, use_bias=False, kernel_init=kernel_init, rngs=rngs
    )


def _at_first(
    states: Float[Array, "texts time width"], there: _Mask
) -> Float[Array, "texts width"]:
    """The state at each row's first true place. A row without one reads as NaN."""
    first = there & (jnp.cumsum(there, -1) == 1)
    found = jnp.sum(jnp.where(first[..., None], states, 0), axis=1)
    return jnp.where(there.any(-1, keepdims=True), found, jnp.nan)


def _unit(x: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    wide = x.astype(jnp.float32)
    return (wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)).astype(x.dtype)
