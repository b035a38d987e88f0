"""Opens a file of any format, told apart by its first bytes and its name."""

import importlib
from pathlib import Path

from wlab.checkpoint.source import Source
from wlab.checkpoint.steps import PathLike

# What a file begins with, or its name ends in → the format's file and the function that opens it.
_TORCH, _PICKLE = ("torch_files", "open_torch"), ("numpy_pickles", "open_pickle")
_BEGINS = {
    b"GGUF": ("gguf", "open_gguf"),
    b"\x89HDF\r\n\x1a\n": ("hdf5", "open_hdf5"),
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": _TORCH,  # its number, pickled
}
_ENDS = {
    ".safetensors.index.json": ("safetensors", "open_safetensors_index"),
    ".safetensors": ("safetensors", "open_safetensors"),
    ".npz": ("npz", "open_npz"),
    "model.json": ("tfjs", "open_tfjs"),
    ".msgpack": ("flax_msgpack", "open_msgpack"),
    ".onnx": ("onnx", "open_onnx"),
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"), _PICKLE),
}
_ZIP = b"PK\x03\x04"  # PyTorch's if its name is one of a pickle


def open_source(path: PathLike) -> Source:
    """The arrays of a file by name, none of them read yet.

    Knows safetensors (and an index of shards), GGUF, npz, torch, TensorFlow.js, flax msgpack,
    HDF5, ONNX and pickles of NumPy arrays. A llama2.c file has no mark of its own: use
    `wlab.checkpoint.open_llama2c`.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If the format is not known or the file is damaged, saying how.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Nothing at {path}.")
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder: name the file in it, or `load` it if orbax wrote it."
        )
    with path.open("rb") as file:
        first = file.read(max(map(len, _BEGINS)))
    module, function = _format_of(path, first)
    return getattr(importlib.import_module(f"wlab.checkpoint.formats.{module}"), function)(path)


def _format_of(path: Path, first: bytes) -> tuple[str, str]:
    begins = [found for mark, found in _BEGINS.items() if first.startswith(mark)]
    ends = [found for mark, found in _ENDS.items() if path.name.endswith(mark)]
    if not begins and not ends:
        raise ValueError(
            f"{path} is of no known format: it begins with {first!r} and its name ends in none of "
            f"{', '.join(_ENDS)}."
        )
    found = (*begins, *ends)[0]
    return _TORCH if found == _PICKLE and first.startswith(_ZIP) else found
