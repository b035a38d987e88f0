"""Checkpoints that survive: step directories, plain files, and listings that never load JAX.

Listings and steps are at hand at once, since they need no JAX; the rest is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING

from wlab.checkpoint.listing import Entry as Entry
from wlab.checkpoint.listing import listed as listed
from wlab.checkpoint.listing import listing as listing
from wlab.checkpoint.opening import open_source as open_source
from wlab.checkpoint.source import Lazy as Lazy
from wlab.checkpoint.source import Source as Source
from wlab.checkpoint.steps import Best as Best
from wlab.checkpoint.steps import best as best
from wlab.checkpoint.steps import latest as latest
from wlab.checkpoint.steps import steps as steps

if TYPE_CHECKING:
    from wlab.checkpoint.formats.compressed_tensors import Compressed as Compressed
    from wlab.checkpoint.formats.compressed_tensors import Scheme as Scheme
    from wlab.checkpoint.formats.compressed_tensors_files import (
        load_compressed_tensors as load_compressed_tensors,
    )
    from wlab.checkpoint.formats.compressed_tensors_files import (
        save_compressed_tensors as save_compressed_tensors,
    )
    from wlab.checkpoint.formats.flax_msgpack_writing import save_msgpack as save_msgpack
    from wlab.checkpoint.formats.gguf_writing import save_gguf as save_gguf
    from wlab.checkpoint.formats.llama2c import open_llama2c as open_llama2c
    from wlab.checkpoint.formats.llama2c import read_llama2c_tokenizer as read_llama2c_tokenizer
    from wlab.checkpoint.formats.onnx_qdq import QuantizedInitializer as QuantizedInitializer
    from wlab.checkpoint.formats.onnx_qdq import load_onnx_qdq as load_onnx_qdq
    from wlab.checkpoint.formats.onnx_qdq_writing import save_onnx_qdq as save_onnx_qdq
    from wlab.checkpoint.migration import Carried as Carried
    from wlab.checkpoint.migration import Migrated as Migrated
    from wlab.checkpoint.migration import carry as carry
    from wlab.checkpoint.migration import migrate as migrate
    from wlab.checkpoint.npz_io import load_npz as load_npz
    from wlab.checkpoint.npz_io import save_npz as save_npz
    from wlab.checkpoint.packed import load_packed as load_packed
    from wlab.checkpoint.packed import save_packed as save_packed
    from wlab.checkpoint.plain import load as load
    from wlab.checkpoint.restoring import Restored as Restored
    from wlab.checkpoint.restoring import restore as restore
    from wlab.checkpoint.safetensors_io import load_safetensors as load_safetensors
    from wlab.checkpoint.safetensors_io import save_safetensors as save_safetensors
    from wlab.checkpoint.stage_files import finished_in as finished_in
    from wlab.checkpoint.store import Saver as Saver
    from wlab.checkpoint.store import save as save

_LAZY = {
    "formats.compressed_tensors": ("Compressed", "Scheme"),
    "formats.compressed_tensors_files": ("load_compressed_tensors", "save_compressed_tensors"),
    "formats.flax_msgpack_writing": ("save_msgpack",),
    "formats.gguf_writing": ("save_gguf",),
    "formats.llama2c": ("open_llama2c", "read_llama2c_tokenizer"),
    "formats.onnx_qdq": ("QuantizedInitializer", "load_onnx_qdq"),
    "formats.onnx_qdq_writing": ("save_onnx_qdq",),
    "migration": ("Carried", "Migrated", "carry", "migrate"),
    "npz_io": ("load_npz", "save_npz"),
    "packed": ("load_packed", "save_packed"),
    "plain": ("load",),
    "restoring": ("Restored", "restore"),
    "stage_files": ("finished_in",),
    "safetensors_io": ("load_safetensors", "save_safetensors"),
    "store": ("Saver", "save"),
}
_FILE_OF = {name: file for file, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _FILE_OF:
        return getattr(importlib.import_module(f"wlab.checkpoint.{_FILE_OF[name]}"), name)
    raise AttributeError(f"module 'wlab.checkpoint' has no attribute {name!r}")
