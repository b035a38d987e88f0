"""GPTQ's and SparseGPT's algebra in torch, for many matrices of a shape at once.

As good as could be written in plain torch: factors of all matrices in one batched Cholesky; of a
block only a few rows are updated one by one, the others by batched products; all in place.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable
from typing import Any

import torch

CHUNK = 32  # rows that are updated one by one


def inverse_factors(grams: torch.Tensor, damping: float) -> torch.Tensor:
    """U of each XᵀX, with UᵀU the inverse of it and a part of its mean diagonal more."""
    damped = grams.clone()
    diagonal = damped.diagonal(dim1=-2, dim2=-1)
    added = damping * diagonal.mean(-1, keepdim=True)
    diagonal.add_(torch.where(diagonal > 0, added, torch.ones(())))
    lower = torch.linalg.cholesky(damped.flip(-2, -1))
    unit = torch.eye(damped.shape[-1]).expand_as(damped)
    return torch.linalg.solve_triangular(lower.flip(-2, -1), unit, upper=True)


def compensate(
    kernels: torch.Tensor,
    factors: torch.Tensor,
    look: Callable[[torch.Tensor, torch.Tensor], Any],
    decide: Callable[[torch.Tensor, Any, int], torch.Tensor],
    *,
    block: int = 128,
) -> None:
    """Decides the rows of matrices in order, in place; later rows make up for each change.

    Args:
        kernels: Matrices, inputs, outputs.
        factors: Of each, from `inverse_factors`.
        look: From the rows of a block and their U_ii: what they are decided by.
        decide: From a row, what `look` found and its place in the block: the row as it shall be.
        block: Rows that are looked at together.
    """
    for start in range(0, kernels.shape[1], block):
        stop = min(start + block, kernels.shape[1])
        rows, corner = kernels[:, start:stop], factors[:, start:stop, start:stop]
        errors = torch.empty_like(rows)
        found = look(rows, corner.diagonal(dim1=-2, dim2=-1))
        for first in range(0, stop - start, CHUNK):
            last = min(first + CHUNK, stop - start)
            part = rows[:, first:last]
            if first:
                part.baddbmm_(corner[:, :first, first:last].mT, errors[:, :first], alpha=-1)
            for i in range(first, last):
                row = rows[:, i]
                if i > first:
                    row.sub_((corner[:, None, first:i, i] @ errors[:, first:i])[:, 0])
                new = decide(row, found, i)
                torch.sub(row, new, out=errors[:, i]).div_(corner[:, i, i, None])
                row.copy_(new)
        if stop < kernels.shape[1]:
            later = factors[:, start:stop, stop:].mT
            kernels[:, stop:].baddbmm_(later, errors, alpha=-1)
