"""Forward passes in NumPy, straight from the arrays of a file under the file's own names."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
from scipy.special import erf

Arrays = Mapping[str, np.ndarray]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def bert(w: Arrays, tokens: np.ndarray, *, layers: int, heads: int) -> np.ndarray:
    """The states of one sequence, by the names of the hub (Devlin et al. 2019)."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("ti,oi->to", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][tokens]
    x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(layers):
        at = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{n}").reshape(len(x), heads, -1)
            for n in ("query", "key", "value")
        )
        mixed = softmax(np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1]))
        heard = np.einsum("hqk,khd->qhd", mixed, v).reshape(x.shape)
        x = norm(
            x + linear(heard, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm"
        )
        h = linear(x, f"{at}.intermediate.dense")
        h = h * (1 + erf(h / np.sqrt(2))) / 2
        x = norm(x + linear(h, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


def llama(
    weight: Callable[[str, int], np.ndarray],
    tokens: np.ndarray,
    *,
    layers: int,
    heads: int,
    interleaved: bool,
    base: float = 10_000.0,
    slower: np.ndarray | float = 1.0,
    more: Collection[str] = (),
    window: int = 0,
) -> np.ndarray:
    """The logits of one sequence; `weight(role, layer)` reads an array, kernels as (out, in).

    `more` has the roles of biases and norms, as `q_bias` and `k_norm`, if the network has them;
    each token sees `window` tokens, itself the last.
    """
    x = weight("embed", 0)[tokens]
    size = len(weight("q", 0)) // heads
    turns = base ** (-np.arange(0, size, 2) / size) / slower
    angle = np.outer(np.arange(len(x)), turns)[:, None]

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

    def turned(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(*x.shape[:-1], -1, 2) if interleaved else np.stack(np.split(x, 2, -1), -1)
        z = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle)
        both = np.stack([z.real, z.imag], -1)
        return both.reshape(x.shape) if interleaved else np.concatenate([z.real, z.imag], -1)

    back = np.subtract.outer(np.arange(len(x)), np.arange(len(x)))
    unseen = np.where((back < 0) | (back >= (window or len(x))), -np.inf, 0.0)
    for i in range(layers):
        h = norm(x, weight("norm_1", i))
        q, k, v = (
            (h @ weight(n, i).T + (weight(f"{n}_bias", i) if f"{n}_bias" in more else 0)).reshape(
                len(x), -1, size
            )
            for n in "qkv"
        )
        if "q_norm" in more:
            q, k = norm(q, weight("q_norm", i)), norm(k, weight("k_norm", i))
        q, k = turned(q), turned(k)
        k, v = (np.repeat(y, heads // y.shape[1], axis=1) for y in (k, v))
        mixed = softmax(np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size) + unseen)
        x = x + np.einsum("hqk,khd->qhd", mixed, v).reshape(len(x), -1) @ weight("o", i).T
        h = norm(x, weight("norm_2", i))
        gate = h @ weight("gate", i).T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ weight("up", i).T)) @ weight("down", i).T
    return norm(x, weight("norm", 0)) @ weight("head", 0).T
