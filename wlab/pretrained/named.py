"""Real networks by name: fetched once, verified at every use, loaded."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from wlab.checkpoint import Source, open_llama2c, open_source
from wlab.data import cache_folder, obtain
from wlab.pretrained.networks import (
    from_gguf,
    from_hub,
    from_llama2c,
    resnet50_imagenet,
    resnet56_cifar10,
)
from wlab.pretrained.networks.convnets import alexnet_lpips, vgg16_cifar10, vgg16_lpips
from wlab.pretrained.networks.hub import weights_of
from wlab.pretrained.networks.network import Network
from wlab.pretrained.sources import SOURCES

_STORIES_END = 60_816_028  # bytes of the model; its tokenizer follows


class _Way(NamedTuple):
    """How a fetched network is read.

    Attributes:
        file: That in its folder which is opened; empty for the folder itself.
        load: Gives the network.
        open: Gives the arrays alone.
    """

    file: str
    load: Callable[..., Network]
    open: Callable[[Path], Source] = open_source


_WAYS: Mapping[str, _Way] = {
    "minilm": _Way("", from_hub, weights_of),
    "minilm-fp16": _Way("", from_hub, weights_of),
    "stories15m": _Way(
        "llama2.data",
        partial(from_llama2c, end=_STORIES_END),
        partial(open_llama2c, end=_STORIES_END),
    ),
    "smollm2-135m": _Way("model.gguf", from_gguf),
    "resnet56-cifar10": _Way("model.pth", resnet56_cifar10),
    "vgg16-cifar10": _Way("model.pth", vgg16_cifar10),
    "alexnet-lpips": _Way("model.ckpt", alexnet_lpips),
    "vgg16-lpips": _Way("model.ckpt", vgg16_lpips),
    "resnet50-imagenet": _Way("model.json", resnet50_imagenet),
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
    folder = fetch(name, file=file, cache=cache)
    return _WAYS[name].load(folder / _WAYS[name].file, **options)


def source(name: str, *, file: str | Path | None = None, cache: str | Path | None = None) -> Source:
    """The arrays of a network by name, as its files name them, none of them read yet.

    Args:
        name: One of `wlab weights list`.
        file: As of `fetch`.
        cache: As of `fetch`.

    Raises:
        FetchError: If it could not be downloaded.
        ValueError: As `fetch`, or if the file is damaged.
    """
    folder = fetch(name, file=file, cache=cache)
    return _WAYS[name].open(folder / _WAYS[name].file)
