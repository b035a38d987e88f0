"""Weights that others trained: in, out, and running.

The list of sources is at hand at once; the rest is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING

from wlab.pretrained.sources import SOURCES as SOURCES

if TYPE_CHECKING:
    from wlab.pretrained import maps as maps
    from wlab.pretrained import text as text
    from wlab.pretrained.adapters import Mapped as Mapped
    from wlab.pretrained.adapters import load_adapter as load_adapter
    from wlab.pretrained.adapters import load_factors as load_factors
    from wlab.pretrained.adapters import merge_adapter as merge_adapter
    from wlab.pretrained.adapters import save_adapter as save_adapter
    from wlab.pretrained.adapters import save_factors as save_factors
    from wlab.pretrained.exporting import export as export
    from wlab.pretrained.loading import Loaded as Loaded
    from wlab.pretrained.loading import load as load
    from wlab.pretrained.loading import unread as unread
    from wlab.pretrained.name_map import Move as Move
    from wlab.pretrained.name_map import NameMap as NameMap
    from wlab.pretrained.name_map import for_layers as for_layers
    from wlab.pretrained.name_map import move as move
    from wlab.pretrained.name_map import prefixed as prefixed
    from wlab.pretrained.named import fetch as fetch
    from wlab.pretrained.named import network as network
    from wlab.pretrained.named import source as source
    from wlab.pretrained.narrowing import as_graph as as_graph
    from wlab.pretrained.narrowing import shrunk as shrunk
    from wlab.pretrained.narrowing import units as units
    from wlab.pretrained.narrowing import verify_shrunk as verify_shrunk
    from wlab.pretrained.networks import from_gguf as from_gguf
    from wlab.pretrained.networks import from_hub as from_hub
    from wlab.pretrained.networks import from_llama2c as from_llama2c
    from wlab.pretrained.networks import from_torch_lstm as from_torch_lstm
    from wlab.pretrained.networks import from_torchvision as from_torchvision
    from wlab.pretrained.networks import save_hub as save_hub
    from wlab.pretrained.networks import to_gguf as to_gguf
    from wlab.pretrained.networks import to_hub as to_hub
    from wlab.pretrained.networks.network import Network as Network
    from wlab.pretrained.planning import Plan as Plan
    from wlab.pretrained.planning import plan as plan
    from wlab.pretrained.refilling import refilled as refilled
    from wlab.pretrained.sentences import sentence_vectors as sentence_vectors
    from wlab.pretrained.shrunk_files import from_shrunk as from_shrunk
    from wlab.pretrained.shrunk_files import save_shrunk as save_shrunk
    from wlab.pretrained.sight import Sight as Sight
    from wlab.pretrained.sight import accuracy as accuracy
    from wlab.pretrained.sight import class_logits as class_logits
    from wlab.pretrained.surprise import Surprise as Surprise
    from wlab.pretrained.surprise import perplexity as perplexity

_LAZY = {
    "adapters": (
        *("Mapped", "load_adapter", "load_factors", "merge_adapter"),
        *("save_adapter", "save_factors"),
    ),
    "exporting": ("export",),
    "loading": ("Loaded", "load", "unread"),
    "name_map": ("Move", "NameMap", "for_layers", "move", "prefixed"),
    "named": ("fetch", "network", "source"),
    "networks.network": ("Network",),
    "networks": (
        *("from_gguf", "from_hub", "from_llama2c", "from_torch_lstm", "from_torchvision"),
        *("save_hub", "to_gguf", "to_hub"),
    ),
    "refilling": ("refilled",),
    "shrunk_files": ("from_shrunk", "save_shrunk"),
    "narrowing": ("as_graph", "shrunk", "units", "verify_shrunk"),
    "sight": ("Sight", "accuracy", "class_logits"),
    "surprise": ("Surprise", "perplexity"),
    "planning": ("Plan", "plan"),
    "sentences": ("sentence_vectors",),
}
_FILE_OF = {name: file for file, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> object:
    if name in ("maps", "text"):
        return importlib.import_module(f"wlab.pretrained.{name}")
    if name in _FILE_OF:
        return getattr(importlib.import_module(f"wlab.pretrained.{_FILE_OF[name]}"), name)
    raise AttributeError(f"module 'wlab.pretrained' has no attribute {name!r}")
