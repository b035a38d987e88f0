"""Texts to calibrate and to judge a language model on, and the model itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from wlab import data, models, pretrained
from wlab.checkpoint.atomic import written_whole
from wlab.transform import Params

Tokens = Int[np.ndarray, "rows context"]
KERNELS = r"block_\d+/(attn/[qkvo]|gate|up|down)/kernel"  # those of a decoder's blocks


@dataclass(frozen=True)
class Reading:
    """A network with disjoint texts.

    Attributes:
        network: With its dense weights.
        calibration: Gives the rows to calibrate on, by a seed.
        test: What it is judged on.
        context: Tokens a window.
    """

    network: pretrained.Network
    calibration: Callable[[int], Tokens]
    test: Int[np.ndarray, " length"]
    context: int

    @property
    def stages(self) -> list[str]:
        """Block by block: a regex of the leaves of each."""
        return [rf"block_{i}/.*" for i in range(self.network.config.layers)]

    def batches(self, seed: int, *, batch: int) -> list[tuple[jax.Array]]:
        """The rows to calibrate on, so many at once."""
        rows = self.calibration(seed)
        return [(jnp.asarray(rows[i : i + batch]),) for i in range(0, len(rows), batch)]

    def perplexity(self, params: Params) -> float:
        """On the test text, with other weights."""
        network = replace(self.network, params=params)
        return pretrained.perplexity(network, self.test, context=self.context).perplexity


def wikitext(name: str, *, rows: int, test: int, context: int = 512) -> Reading:
    """WikiText-2: windows of the training part, and the first tokens of the test part."""
    network = pretrained.network(name, dtype=jnp.float32)
    files = data.read_text("wikitext-2")
    train = _encoded(network, files["train"][: 400 * rows * context // 64])
    windows = train[: len(train) // context * context].reshape(-1, context)

    def calibration(seed: int) -> Tokens:
        return windows[np.random.default_rng(seed).permutation(len(windows))[:rows]]

    found = _encoded(network, files["test"][: 10 * test])
    return Reading(network, calibration, found[: test + 1], context)


def stories(name: str, directory: Path, *, rows: int, test: int, context: int = 256) -> Reading:
    """Stories that the dense network tells at temperature 1; what it is judged on it tells apart.

    They are kept in the directory.
    """
    network = pretrained.network(name, dtype=jnp.float32)
    tell = _teller(network, context)

    def told(count: int, seed: int) -> Tokens:
        path = directory / f"stories-{count}-{seed}.npy"
        if not path.exists():
            with written_whole(path) as file:
                np.save(file, tell(count, seed))
        return np.load(path)

    judged = told(-(-(test + 1) // context), 1_000_000)
    return Reading(network, lambda seed: told(rows, seed), judged.reshape(-1)[: test + 1], context)


def _teller(network: pretrained.Network, context: int) -> Callable[[int, int], Tokens]:
    """Tells a number of rows that begin a story each, by a seed."""
    if network.tokenizer is None or network.tokenizer.bos is None:
        raise ValueError("the network's files name no token that a story begins with.")
    begin = network.tokenizer.bos
    empty_cache = partial(models.empty_cache, network.config)
    draw = models.make_generate(network.model.apply, empty_cache=empty_cache)

    def tell(count: int, seed: int) -> Tokens:
        key = jax.random.key(seed)
        tokens = draw(network.params, [[begin]] * count, steps=context - 1, key=key)
        return np.stack([np.full(count, begin), *tokens], axis=1).astype(np.int32)

    return tell


def _encoded(network: pretrained.Network, text: bytes) -> Any:
    if network.tokenizer is None:
        raise ValueError("the network came without its tokenizer.")
    return np.asarray(network.tokenizer.encode(text.decode(errors="ignore")), np.int32)
