"""MiniLM, which was trained on pairs of sentences, learns to which newsgroup a letter was sent."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.transfer.task import Task
from wlab import data, pretrained
from wlab.transform import Key, Params

WIDTH, LAYERS = 384, 6


def letters(*, name: str = "minilm", time: int = 64, test: int = 2000) -> Task:
    """The first `time` tokens of each letter; a fixed part of the test letters.

    The name may be that of the half-precision twin, `minilm-fp16`.
    """
    network, groups = pretrained.network(name, dtype=jnp.float32), data.newsgroups()
    words = network.tokenizer
    if words is None:
        raise ValueError("minilm came without its tokenizer.")
    chosen = np.random.default_rng(0).permutation(len(groups.test.text))[:test]

    def rows(part: data.Letters, at: Any) -> dict[str, np.ndarray]:
        tokens = np.zeros((len(at), time), np.int32)
        for row, i in zip(tokens, at, strict=True):
            found = words.encode(part.text[i][: 20 * time])[:time]
            row[: len(found)] = found
        return {"tokens": tokens, "label": part.label[at]}

    def features(body: Params, statistics: Any, batch: Any, train: bool) -> tuple[jax.Array, Any]:
        del train
        mask = batch["tokens"] != 0
        states = network.model.apply(body, batch["tokens"], mask=mask).states
        total = jnp.sum(jnp.where(mask[..., None], states, 0), axis=1)
        return total / jnp.sum(mask, axis=1, keepdims=True), statistics

    def fresh(key: Key) -> tuple[Params, Any]:
        return network.model.init(key), ()

    return Task(
        name="letters",
        classes=len(groups.names),
        width=WIDTH,
        train=rows(groups.train, np.arange(len(groups.train.text))),
        test=rows(groups.test, chosen),
        body=(network.params, ()),
        fresh=fresh,
        features=features,
        depths=[
            ("head/.*", 0),
            ("body/pool/.*", 0),  # the head does not read it
            *[(rf"body/block_{LAYERS - k}/.*", k) for k in range(1, LAYERS + 1)],
            ("body/.*", LAYERS + 1),
        ],
    )
