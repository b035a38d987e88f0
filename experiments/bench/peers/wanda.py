"""Wanda of a whole decoder, half of the inputs of each output, in wlab and in torch.

Sun et al. 2023 (arXiv:2306.11695).
"""

# pyright: reportMissingImports=false

from typing import Any

import torch

from experiments.bench.peers import calibrated
from experiments.bench.peers.task import Task, Work
from experiments.pruning.texts import KERNELS
from wlab import pruning, tree
from wlab.pruning import Pattern, PerOutput

DENSITY = 0.5


def ours(task: Task) -> Work:
    """By `wlab.pruning.wanda`."""
    rules: tree.Rules[Pattern | None] = [(KERNELS, PerOutput(DENSITY)), (".*", None)]

    def method(apply: Any, params: Any, batches: Any, *, stages: list[str]) -> Any:
        return pruning.wanda(apply, params, batches, rules, stages=stages)

    return calibrated.ours(task, method)


def theirs(task: Task) -> Work:
    """In torch: the scores that stay of an output are found without a sort."""
    return calibrated.theirs(task, _add, _change)


def _add(total: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    more = rows.square().sum(0)
    return more if total is None else total.add_(more)


def _change(matrices: torch.Tensor, squares: torch.Tensor, which: list[int]) -> torch.Tensor:
    scores = matrices.abs().mul_(squares.sqrt()[which][:, None])
    kept = int(matrices.shape[-1] * DENSITY + 0.5)
    least = scores.topk(kept, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return matrices.masked_fill_(scores < least, 0)
