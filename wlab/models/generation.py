"""Text from a decoder, token by token, many rows at once."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wlab.transform import Key, Params


def sample(
    logits: Float[Array, "batch vocab"],
    key: Key,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Int[Array, " batch"]:
    """Draws a token a row; at temperature 0 the likeliest.

    Args:
        logits: Of the next token.
        key: Randomness.
        temperature: Divides the logits; 0 and above.
        top_p: Only the likeliest tokens whose probabilities, at that temperature, sum to this
            much are drawn from; in (0, 1].

    Raises:
        ValueError: If temperature or top_p is out of range.

    Reference:
        Holtzman et al. 2020 (arXiv:1904.09751), §3.1: nucleus sampling.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 or more, got {temperature}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / temperature
    if top_p < 1:
        order = jnp.argsort(-logits, axis=-1)
        ranked = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
        before = jnp.cumsum(ranked, axis=-1) - ranked  # the mass of all likelier ones
        rank = jnp.argsort(order, axis=-1)
        logits = jnp.where(jnp.take_along_axis(before, rank, axis=-1) < top_p, logits, -jnp.inf)
    # As `jax.random.categorical`, but drawn first: within the search XLA:CPU takes a third longer.
    noise = jax.lax.optimization_barrier(jax.random.gumbel(key, logits.shape))
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def make_generate(
    apply: Callable[..., Any],
    *,
    empty_cache: Callable[..., Any],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Callable[..., Iterator[np.ndarray]]:
    """Builds `generate(params, prompts, *, steps, key)`, compiled once for all its calls.

    It yields the next token of every row, `steps` times. Reading the prompts and going on by a
    token are a program each; both are compiled anew for another number of rows, length of the
    prompts or sum of length and steps. Prompts of unequal length are padded at their start, where
    no token sees the padding. It raises ValueError if a prompt is empty.

    Args:
        apply: `(params, tokens, cache=) -> (logits, cache)`.
        empty_cache: `(batch, length=, pads=) -> cache`.
        temperature: As `sample`.
        top_p: As `sample`.
    """

    @partial(jax.jit, donate_argnums=2)
    def advance(params: Params, tokens: Array, cache: Any, key: Key) -> tuple[Array, Any]:
        logits, cache = apply(params, tokens, cache=cache)
        return sample(logits[:, -1], key, temperature=temperature, top_p=top_p), cache

    def drawn(
        params: Params, prompts: Sequence[Sequence[int]], *, steps: int, key: Key
    ) -> Iterator[np.ndarray]:
        longest = max(map(len, prompts), default=0)
        if not all(map(len, prompts)) or not longest:
            raise ValueError("generate: each prompt needs a token; begin with the network's BOS.")
        pads = np.array([longest - len(prompt) for prompt in prompts], np.int32)
        tokens = np.array([[0] * (longest - len(p)) + [*p] for p in prompts], np.int32)
        cache = empty_cache(len(prompts), length=longest + steps - 1, pads=jnp.asarray(pads))
        current = jnp.asarray(tokens)
        for step in range(steps):
            found, cache = advance(params, current, cache, jax.random.fold_in(key, step))
            current = found[:, None]
            yield np.asarray(found)

    return drawn


def generate(
    apply: Callable[..., Any],
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    empty_cache: Callable[..., Any],
    steps: int,
    key: Key,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Iterator[np.ndarray]:
    """Yields the next token of every row, `steps` times, as `make_generate` does.

    Each call compiles anew: whoever draws more than once builds with `make_generate` first.

    Args:
        apply: `(params, tokens, cache=) -> (logits, cache)`.
        params: The weights.
        prompts: Tokens to go on from, a row each; none may be empty.
        empty_cache: `(batch, length=, pads=) -> cache`.
        steps: How many tokens to draw.
        key: Randomness; step t uses `fold_in(key, t)`.
        temperature: As `sample`.
        top_p: As `sample`.

    Raises:
        ValueError: If a prompt is empty, or an option is out of range.
    """
    drawn = make_generate(apply, empty_cache=empty_cache, temperature=temperature, top_p=top_p)
    yield from drawn(params, prompts, steps=steps, key=key)
