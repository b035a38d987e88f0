"""What the sizes of a decoder of LLaMA's kin say of its units."""

from dataclasses import replace

import numpy as np

from wlab import graph
from wlab.models import LlamaConfig

_MADE_OF = {  # the kernels of a block of a LLaMA, and their axes
    "ffn": {"gate/kernel:1", "up/kernel:1", "down/kernel:0"},
    "kv_heads": {*(f"attn/{name}/kernel:1" for name in "qkv"), "attn/o/kernel:0"},
    "queries": {"attn/q/kernel:1", "attn/o/kernel:0"},
}
_ALL = set().union(*_MADE_OF.values()) | {"attn/q/kernel:0"}


def size_of(group: graph.Group) -> str | None:
    """Which size of every block its units are counted by; None if there is none."""
    places = {f"{m.path.split('/', 1)[-1]}:{m.axis}" for m in group.members}
    return next((size for size, made_of in _MADE_OF.items() if places & _ALL == made_of), None)


def with_sizes(config: LlamaConfig, groups: graph.Groups, keep: graph.Keep) -> LlamaConfig:
    """The sizes of what is left.

    Raises:
        ValueError: If they differ from block to block.
    """
    left: dict[str, dict[str, int]] = {}
    for name, group in groups.groups.items():
        size = int(np.sum(keep[name])) if name in keep else group.size
        left.setdefault(size_of(group) or "", {})[name] = size
    for what, sizes in left.items():
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"shrunk: every block of a LLaMA has the same {what}; "
                f"{', '.join(f'{name} would keep {n}' for name, n in sizes.items())}."
            )
    ffn, kv_heads, queries = (
        next(iter(left[what].values())) if what in left else whole
        for what, whole in (
            *(("ffn", config.ffn), ("kv_heads", config.kv_heads)),
            ("queries", config.heads // config.kv_heads),
        )
    )
    heads = kv_heads * queries
    size = config.head_size if heads == config.heads else config.size
    return replace(config, ffn=ffn, heads=heads, kv_heads=kv_heads, head_size=size)
