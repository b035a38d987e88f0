"""What is learned: a network that was trained on something else, and few or many examples."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from wlab import data, tree
from wlab.transform import Key, Params


@dataclass(frozen=True)
class Task:
    """A body that was trained before, under a new head that is a linear layer.

    Parameters are `{"body": …, "head": {"kernel", "bias"}}`.

    Attributes:
        name: `letters` or `photos`.
        classes: How many.
        width: Of what the head reads.
        train: Inputs and `label`, a row an example.
        test: Likewise.
        body: The weights that others trained, and their statistics.
        fresh: Weights and statistics of the same shapes, from a key.
        features: `(body, statistics, batch, train) -> (rows × width, statistics)`.
        depths: `(regex, k)` for every leaf; 0 is the head.
    """

    name: str
    classes: int
    width: int
    train: data.Arrays
    test: data.Arrays
    body: tuple[Params, Any]
    fresh: Callable[[Key], tuple[Params, Any]]
    features: Callable[[Params, Any, Any, bool], tuple[jax.Array, Any]]
    depths: tree.Rules[int]

    def logits(
        self, params: Params, statistics: Any, batch: Any, *, train: bool = False
    ) -> tuple[jax.Array, Any]:
        """Through the body and the head; the statistics as they are then."""
        found, statistics = self.features(params["body"], statistics, batch, train)
        return on_features(params["head"], found), statistics

    def head(self) -> Params:
        """Zeros: at the start every class is as likely (Kolesnikov et al. 2020, BiT, §3.3)."""
        return {
            "kernel": np.zeros((self.width, self.classes), np.float32),
            "bias": np.zeros(self.classes, np.float32),
        }


def on_features(head: Params, features: jax.Array) -> jax.Array:
    """The head alone."""
    return features @ head["kernel"] + head["bias"]


def few(task: Task, labels: int, seed: int) -> data.Arrays:
    """So many training examples, each class as often as the others where it has enough.

    Another seed draws others; all of them if `labels` is 0.
    """
    if not labels:
        return task.train
    order = np.random.default_rng(seed).permutation(len(task.train["label"]))
    label = task.train["label"][order]
    # The n-th example of its class comes before every n+1-th.
    rank = np.zeros(len(order), np.int64)
    for c in range(task.classes):
        rank[label == c] = np.arange((label == c).sum())
    return data.take(task.train, order[np.argsort(rank, kind="stable")[:labels]])


def held_out(task: Task, count: int) -> Task:
    """Judged on so many of the training examples, which are then not learned from."""
    order = np.random.default_rng(1).permutation(len(task.train["label"]))
    return replace(
        task,
        name=f"{task.name}-held-out",
        train=data.take(task.train, np.sort(order[count:])),
        test=data.take(task.train, np.sort(order[:count])),
    )
