"""Folders of the hub in compressed-tensors' format: `model.safetensors` and `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.formats.compressed_tensors import Compressed, from_parts, parts
from wlab.checkpoint.formats.compressed_tensors_config import quantization_config, scheme_of
from wlab.checkpoint.formats.json_text import json_object
from wlab.checkpoint.opening import open_source
from wlab.checkpoint.safetensors_io import save_safetensors
from wlab.checkpoint.steps import PathLike

CONFIG = "quantization_config"
_NAMES = ("model.safetensors", "model.safetensors.index.json")
_ENDINGS = ("_packed", "_shape", "_scale", "_zero_point")


def save_compressed_tensors(
    folder: PathLike,
    weights: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
) -> None:
    """Writes weights and the config that says how to read them; each file is whole or not there.

    Args:
        folder: Is made if it is missing.
        weights: By the hub's names, rows first: `Compressed`, or arrays (`Lazy` too) as they are.
        config: Of the network, as its own `config.json` has it.

    Raises:
        ValueError: If a weight is not what its scheme says, or two arrays have the same name.
    """
    quantized = {name: w for name, w in weights.items() if isinstance(w, Compressed)}
    arrays: dict[str, Any] = {}
    for name, weight in weights.items():
        for part, array in (parts(name, weight) if name in quantized else {name: weight}).items():
            if part in arrays:
                raise ValueError(f"two arrays have the name {part!r}; rename a leaf.")
            arrays[part] = array
    stated = {name: weight.scheme for name, weight in quantized.items()}
    text = json.dumps({**config, CONFIG: quantization_config(stated)}, indent=2)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_safetensors(target / _NAMES[0], arrays, metadata={"format": "pt"})
    with written_whole(target / "config.json") as file:
        file.write(text.encode())


def load_compressed_tensors(folder: PathLike) -> dict[str, Any]:
    """Every weight of a folder by name: `Compressed`, or a plain array.

    Raises:
        FileNotFoundError: If the weights or the config are missing.
        ValueError: If they are damaged, or do not belong together, naming the array.
    """
    source_folder = Path(folder)
    found = next((source_folder / n for n in _NAMES if (source_folder / n).exists()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(_NAMES)}.")
    config = json_object(source_folder / "config.json").get(CONFIG)
    if not isinstance(config, dict):
        raise ValueError(f"{folder}/config.json has no {CONFIG}: its weights are plain.")
    arrays = open_source(found).arrays
    quantized = [name.removesuffix("_scale") for name in arrays if name.endswith(".weight_scale")]
    weights: dict[str, Any] = {}
    for name in quantized:
        held = [name, *(f"{name}{ending}" for ending in _ENDINGS)]
        each = {part: arrays[part].read() for part in held if part in arrays}
        weights[name] = _read(found, name, each, config)
    taken = {f"{name}{ending}" for name in quantized for ending in ("", *_ENDINGS)}
    plain = {name: array.read() for name, array in arrays.items() if name not in taken}
    return weights | plain


def _read(
    path: Path, name: str, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> Compressed:
    try:
        return from_parts(name, arrays, scheme_of(name, config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
