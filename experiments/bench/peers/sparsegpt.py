"""SparseGPT of a whole decoder, half of each kernel, in wlab and in torch.

Frantar & Alistarh 2023 (arXiv:2301.00774), algorithm 1.
"""

# pyright: reportMissingImports=false

from typing import Any

import torch

from experiments.bench.peers import calibrated
from experiments.bench.peers.second_order import compensate, inverse_factors
from experiments.bench.peers.task import Task, Work
from experiments.pruning.texts import KERNELS
from wlab import pruning, tree
from wlab.pruning import Pattern, PerLeaf

DENSITY, DAMPING = 0.5, 0.01


def ours(task: Task) -> Work:
    """By `wlab.pruning.sparsegpt`."""
    rules: tree.Rules[Pattern | None] = [(KERNELS, PerLeaf(DENSITY)), (".*", None)]

    def method(apply: Any, params: Any, batches: Any, *, stages: list[str]) -> Any:
        found = pruning.sparsegpt(apply, params, batches, rules, damping=DAMPING, stages=stages)
        return found.params

    return calibrated.ours(task, method)


def theirs(task: Task) -> Work:
    """In torch."""
    return calibrated.theirs(task, add_gram, _change)


def add_gram(total: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """XᵀX of more rows, added in place."""
    return rows.T @ rows if total is None else total.addmm_(rows.T, rows)


def _change(matrices: torch.Tensor, grams: torch.Tensor, which: list[int]) -> torch.Tensor:
    kernels = matrices.mT.contiguous()
    dead = grams.diagonal(dim1=-2, dim2=-1) == 0
    kernels.masked_fill_(dead[which][:, :, None], 0)
    compensate(kernels, inverse_factors(grams, DAMPING)[which], _chosen, _zeroed)
    return kernels.mT


def _chosen(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Which entries of a block go: the lower half of those of each matrix."""
    scores = rows.div(scale[:, :, None]).square_()
    size = scores[0].numel()
    least = scores.flatten(1).kthvalue(size - int(size * DENSITY + 0.5), dim=-1).values
    return scores <= least[:, None, None]


def _zeroed(row: torch.Tensor, gone: torch.Tensor, i: int) -> torch.Tensor:
    return row.masked_fill(gone[:, i], 0)
