"""Real networks by name: fetched once, verified at every use, loaded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wlab.data import cache_folder, obtain
from wlab.pretrained.networks import (
    from_gguf,
    from_hub,
    from_llama2c,
    resnet50_imagenet,
    resnet56_cifar10,
)
from wlab.pretrained.networks.convnets import alexnet_lpips, vgg16_cifar10, vgg16_lpips
from wlab.pretrained.networks.network import Network
from wlab.pretrained.sources import SOURCES

_STORIES_END = 60_816_028  # bytes of the model; its tokenizer follows

_LOADERS: Mapping[str, Callable[..., Network]] = {
    "minilm": from_hub,
    "minilm-fp16": from_hub,
    "stories15m": lambda folder, **options: from_llama2c(
        folder / "llama2.data", end=_STORIES_END, **options
    ),
    "smollm2-135m": lambda folder, **options: from_gguf(folder / "model.gguf", **options),
    "resnet56-cifar10": lambda folder, **options: resnet56_cifar10(folder / "model.pth", **options),
    "vgg16-cifar10": lambda folder, **options: vgg16_cifar10(folder / "model.pth", **options),
    "alexnet-lpips": lambda folder, **options: alexnet_lpips(folder / "model.ckpt", **options),
    "vgg16-lpips": lambda folder, **options: vgg16_lpips(folder / "model.ckpt", **options),
    "resnet50-imagenet": resnet50_imagenet,
}


def fetch(name: str, *, file: str | Path | None = None, cache: str | Path | None = None) -> Path:
    """The folder that holds a network's files, downloaded if it is not there yet.

    Args:
        name: One of `wlab weights list`.
        file: Where the files already are: the package's archive, or a folder with them.
        cache: The folder of all data; by default `$WLAB_CACHE` or `~/.cache/wlab`.

    Raises:
        FetchError: If no client could download it.
        FileNotFoundError: If `file` is not there.
        ValueError: If the name is unknown or a hash differs.
    """
    if name not in SOURCES:
        raise ValueError(f"no network {name!r}; there are {', '.join(SOURCES)}.")
    folder = cache_folder(cache) / "weights"
    return obtain(name, SOURCES[name], file=file, cache=folder, verb="weights")


def network(
    name: str,
    *,
    file: str | Path | None = None,
    cache: str | Path | None = None,
    **options: Any,
) -> Network:
    """A network by name, with its weights; fetched if need be.

    Args:
        name: One of `wlab weights list`.
        file: As of `fetch`.
        cache: As of `fetch`.
        options: As of `load`: `dtype=`, `place=`, `report=`, …

    Raises:
        FetchError: If it could not be downloaded.
        ValueError: As `fetch` and `load`.
    """
    return _LOADERS[name](fetch(name, file=file, cache=cache), **options)
