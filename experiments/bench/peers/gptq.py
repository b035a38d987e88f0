"""GPTQ of a whole decoder, 4 bits in groups of 128 inputs, in wlab and in torch.

Frantar et al. 2022 (arXiv:2210.17323), algorithm 1. Scales are float16, from the largest weight of
a group when the work comes to it.
"""

# pyright: reportMissingImports=false

from typing import Any

import torch

from experiments.bench.peers import calibrated
from experiments.bench.peers.second_order import compensate, inverse_factors
from experiments.bench.peers.sparsegpt import add_gram
from experiments.bench.peers.task import Task, Work
from experiments.pruning.texts import KERNELS
from wlab import quantization, tree
from wlab.quantization import Format

GROUP, MOST, DAMPING = 128, 7, 0.01
LEAST = 2.0**-14  # the smallest step: a normal number in float16
FORMAT = quantization.integer(4, group_size=GROUP, scale_dtype="float16")


def ours(task: Task) -> Work:
    """By `wlab.quantization.gptq`."""
    rules: tree.Rules[Format | None] = [(KERNELS, FORMAT), (".*", None)]

    def method(apply: Any, params: Any, batches: Any, *, stages: list[str]) -> Any:
        found = quantization.gptq(apply, params, batches, rules, damping=DAMPING, stages=stages)
        return found.params

    return calibrated.ours(task, method)


def theirs(task: Task) -> Work:
    """In torch."""
    return calibrated.theirs(task, add_gram, _change)


def _change(matrices: torch.Tensor, grams: torch.Tensor, which: list[int]) -> torch.Tensor:
    kernels = matrices.mT.contiguous()
    factors = inverse_factors(grams, DAMPING)[which]
    compensate(kernels, factors, _steps, _rounded, block=GROUP)
    return kernels.mT


def _steps(rows: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The step of each group, as it is stored, and one over it."""
    del scale
    step = rows.abs().amax(1).mul_(1 / MOST).half().float().clamp_(min=LEAST)
    return step, step.reciprocal()


def _rounded(row: torch.Tensor, steps: tuple[torch.Tensor, torch.Tensor], i: int) -> torch.Tensor:
    del i
    step, inverse = steps
    return (row * inverse).round_().clamp_(-MOST, MOST).mul_(step)
