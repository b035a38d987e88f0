"""Weights of neural networks, transformed: pure functions over parameter pytrees.

optax transforms updates; wlab transforms weights. Every package below is loaded on
first use, so importing wlab costs nothing and `wlab inspect` never waits for JAX.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wlab.transform import Stored as Stored
    from wlab.transform import WeightTransform as WeightTransform
    from wlab.transform import chain as chain
    from wlab.transform import identity as identity

__version__ = "0.1.0.dev0"

_PACKAGES = (
    "checkpoint",
    "data",
    "decay",
    "graph",
    "initializers",
    "inspection",
    "merging",
    "models",
    "pretrained",
    "pruning",
    "quantization",
    "training",
    "transfer",
    "tree",
    "tying",
)
_TRANSFORM = ("Stored", "WeightTransform", "chain", "identity")

__all__ = ["__version__", *_PACKAGES, *_TRANSFORM]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> ModuleType | object:
    if name in _PACKAGES:
        return importlib.import_module(f"wlab.{name}")
    if name in _TRANSFORM:
        return getattr(importlib.import_module("wlab.transform"), name)
    raise AttributeError(f"module 'wlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
