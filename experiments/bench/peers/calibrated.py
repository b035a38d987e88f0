"""A decoder changed by what its matrices get to see: the whole flow, in wlab and in torch.

Both are given the same tokens in the same batches. In torch what is known of a decoder is used:
matrices that read the same input share its statistic, the head is not computed, matrices of a shape
are changed together, and if it goes block by block, hidden states are carried from block to block.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.bench.peers import decoder
from experiments.bench.peers.task import Task, Work
from wlab import models, tree
from wlab.models.llama import LlamaConfig

Add: TypeAlias = Callable[[torch.Tensor | None, torch.Tensor], torch.Tensor]
"""From a statistic so far (None at first) and more rows of an input: that of all of them."""
Change: TypeAlias = Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]
"""From matrices (n, outputs, inputs), statistics of inputs, and which of those each one reads."""
OurMethod: TypeAlias = Callable[..., Any]
"""(apply, params, batches, *, stages) -> params."""


def ours(task: Task, method: OurMethod) -> Work:
    """The flow as a user of wlab writes it."""
    apply = models.llama(LlamaConfig(**task.settings["config"])).apply
    params = jax.tree.map(jnp.asarray, task.weights)
    batches = [(jnp.asarray(tokens),) for tokens in _batches(task)]
    stages = [rf"block_{i}/.*" for i in _blocks(task)] if task.settings["by_block"] else [".*"]

    def work() -> Mapping[str, Any]:
        found = tree.leaves(method(apply, params, batches, stages=stages))
        return jax.block_until_ready({path: found[path] for path in _paths(_blocks(task))})

    return work


def theirs(task: Task, add: Add, change: Change) -> Work:
    """The flow in torch, with the same stages."""
    dense = {path: _as_torch(path, leaf) for path, leaf in tree.leaves(task.weights).items()}
    batches = [torch.from_numpy(tokens).long() for tokens in _batches(task)]
    config, blocks = task.settings["config"], _blocks(task)
    stages = [[i] for i in blocks] if task.settings["by_block"] else [list(blocks)]

    @torch.inference_mode()
    def work() -> Mapping[str, Any]:
        weights = dict(dense)
        turn = decoder.turns(config, batches[0].shape[1])
        hidden = [torch.nn.functional.embedding(b, weights["embed/embedding"]) for b in batches]
        for stage in stages:
            seen: dict[tuple[int, str], torch.Tensor] = {}
            for x in hidden:
                _look(x, stage, weights, turn, config, add, seen)
            weights |= _changed(weights, _paths(stage), seen, change)
            if stage is not stages[-1]:
                for at, x in enumerate(hidden):
                    for i in stage:
                        x = decoder.block(x, _within(weights, i), turn, config)
                    hidden[at] = x
        return {path: weights[path].T for path in _paths(blocks)}

    return work


def _look(
    x: torch.Tensor,
    stage: Sequence[int],
    weights: decoder.Weights,
    turn: torch.Tensor,
    config: Mapping[str, Any],
    add: Add,
    seen: dict[tuple[int, str], torch.Tensor],
) -> None:
    """Adds what the matrices of some blocks see of a batch."""
    for i in stage:

        def see(name: str, rows: torch.Tensor, i: int = i) -> None:
            seen[i, name] = add(seen.get((i, name)), rows)

        last = i == stage[-1]
        x = decoder.block(x, _within(weights, i), turn, config, see=see, to_the_end=not last)


def _changed(
    weights: decoder.Weights,
    paths: Sequence[str],
    seen: Mapping[tuple[int, str], torch.Tensor],
    change: Change,
) -> dict[str, torch.Tensor]:
    """The new matrices, all of a shape together."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for path in paths:
        shapes.setdefault(tuple(weights[path].shape), []).append(path)
    new: dict[str, torch.Tensor] = {}
    for alike in shapes.values():
        keys = [_read_by(path) for path in alike]
        distinct = list(dict.fromkeys(keys))
        statistics = torch.stack([seen[key] for key in distinct])
        stacked = torch.stack([weights[path] for path in alike])
        which = [distinct.index(key) for key in keys]
        new |= dict(zip(alike, change(stacked, statistics, which), strict=True))
    return new


def _read_by(path: str) -> tuple[int, str]:
    block, leaf = path.removesuffix("/kernel").split("/", 1)
    return int(block.removeprefix("block_")), decoder.READS[leaf]


def _paths(blocks: Sequence[int]) -> list[str]:
    return [f"block_{i}/{leaf}/kernel" for i in blocks for leaf in decoder.READS]


def _within(weights: decoder.Weights, i: int) -> decoder.Weights:
    start = f"block_{i}/"
    return {p.removeprefix(start): w for p, w in weights.items() if p.startswith(start)}


def _as_torch(path: str, leaf: np.ndarray) -> torch.Tensor:
    turned = leaf.T if path.endswith("/kernel") else leaf
    return torch.from_numpy(np.array(turned, np.float32, order="C"))


def _batches(task: Task) -> list[np.ndarray]:
    tokens, batch = task.data["tokens"], task.settings["batch"]
    return [tokens[i : i + batch] for i in range(0, len(tokens), batch)]


def _blocks(task: Task) -> range:
    return range(task.settings["config"]["layers"])
