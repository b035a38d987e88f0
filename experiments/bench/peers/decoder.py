"""A decoder in the manner of LLaMA in plain torch, which shows the inputs of its products."""

# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

Weights: TypeAlias = Mapping[str, torch.Tensor]
"""By path within a block; matrices as `torch.nn.Linear` has them, outputs by inputs."""
See: TypeAlias = Callable[[str, torch.Tensor], None]
"""Told the name of an input, and its rows."""

READS = {"attn/q": "heard", "attn/k": "heard", "attn/v": "heard"}
READS |= {"attn/o": "mixed", "gate": "read", "up": "read", "down": "gated"}
"""Which input each matrix of a block gets."""


def turns(config: Mapping[str, Any], time: int) -> torch.Tensor:
    """cos + i sin of the rotary angles: (time, 1, size / 2)."""
    size = config["width"] // config["heads"]
    steps = torch.tensor(config["rope_base"]) ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(time)[:, None] * steps
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def block(
    x: torch.Tensor,
    weights: Weights,
    turn: torch.Tensor,
    config: Mapping[str, Any],
    *,
    see: See = lambda name, rows: None,
    to_the_end: bool = True,
) -> torch.Tensor:
    """A block of (batch, time, width); without its last product unless `to_the_end`."""
    heard = _norm(x, weights["norm_1/scale"], config)
    see("heard", heard.flatten(0, 1))
    q, k, v = (
        F.linear(heard, weights[f"attn/{name}/kernel"]).unflatten(-1, (heads, -1))
        for name, heads in zip("qkv", _heads(config), strict=True)
    )
    q, k = _turned(q, turn, config), _turned(k, turn, config)
    mixed = F.scaled_dot_product_attention(
        *(part.transpose(1, 2) for part in (q, k, v)),
        is_causal=True,
        enable_gqa=config["heads"] != config["kv_heads"],
    )
    mixed = mixed.transpose(1, 2).flatten(-2)
    see("mixed", mixed.flatten(0, 1))
    x = x + F.linear(mixed, weights["attn/o/kernel"])
    read = _norm(x, weights["norm_2/scale"], config)
    see("read", read.flatten(0, 1))
    gated = F.silu(F.linear(read, weights["gate/kernel"]))
    gated.mul_(F.linear(read, weights["up/kernel"]))
    see("gated", gated.flatten(0, 1))
    return x + F.linear(gated, weights["down/kernel"]) if to_the_end else x


def _heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return config["heads"], config["kv_heads"], config["kv_heads"]


def _norm(x: torch.Tensor, scale: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    return F.rms_norm(x, scale.shape, scale, config["epsilon"])


def _turned(x: torch.Tensor, turn: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    if config["rotary"] == "interleaved":
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2)
    a, b = x.chunk(2, -1)
    cos, sin = turn.real, turn.imag
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
