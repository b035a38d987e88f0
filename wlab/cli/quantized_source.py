"""What `wlab quantize` and `wlab verify` take: the arrays of a file, or the leaves of a network."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wlab.checkpoint import Lazy, Source, open_source
from wlab.cli import quantized_files, reading, shelf

BY_TEXT = ("gptq", "awq")  # the methods that run the network


class Opened(NamedTuple):
    """Plain weights, and the network if they are the leaves of one.

    Attributes:
        arrays: By name: a file's, or the paths of the network's leaves.
        metadata: What else the file says.
        format: Of the file, as `gguf`; None if it is not known.
        network: None if the arrays are a file's. Its leaves are in memory if the method runs it,
            and `Lazy` otherwise.
    """

    arrays: Mapping[str, Lazy]
    metadata: Mapping[str, Any]
    format: str | None = None
    network: Any = None


def opened(
    args: argparse.Namespace,
    other: Path,
    open_file: Callable[[Path], Source] = quantized_files.opened,
) -> Opened:
    """Opens `args.source`, as a network if `--tree`, its method or a name of the shelf asks for it.

    Args:
        args: With `source`, `tree`, `file` and `cache`.
        other: What it becomes, or is compared with; beside a GGUF file arrays have ggml's names.
        open_file: Opens what is not to be a network.

    Raises:
        FileNotFoundError: If there is no such file, folder or network.
        ValueError: If the file is quantized already, or is of no network and must be.
    """
    shelf.refuse_nowhere(args.source)
    named, gguf = shelf.is_named(args.source), other.suffix == ".gguf"
    reads_text = getattr(args, "method", None) in BY_TEXT
    if args.tree or reads_text or (named and not gguf):
        return _of_network(args, gguf=gguf, lazy=not reads_text)
    path = _own_file(args)
    if gguf and path.is_dir():
        return _in_ggml_names(args)
    source = open_file(path)
    return Opened(source.arrays, source.metadata, source.format)


def named_network(args: argparse.Namespace, **options: Any) -> Any:
    """The network that `args.source` is; `options` are those of what loads it.

    Raises:
        ValueError: If it is none that wlab knows.
    """
    path = Path(args.source)
    if not shelf.is_named(args.source) and not path.is_dir() and path.suffix != ".gguf":
        raise ValueError(
            f"{args.source} is a file of arrays, and what runs them is not known: give a name of "
            "`wlab weights list`, a folder of the hub, or a GGUF file. Without one --method "
            "nearest and hqq quantize, and magnitude prunes."
        )
    return shelf.network(args.source, args, **options)


def tokens_of(network: Any, args: argparse.Namespace) -> np.ndarray:
    """The text of `args.data` by the network's tokenizer.

    Raises:
        ValueError: If it has none.
    """
    words = reading.tokenizer(network, args.source)
    return np.asarray(words.encode(reading.written(args.data, args, part="test")), np.int32)


def leaves_of(network: Any) -> dict[str, Lazy]:
    """The leaves of a network by path, those that are still in a file among them."""
    from wlab import tree

    return {name: _lazy(leaf) for name, leaf in tree.leaves(network.params).items()}


def _of_network(args: argparse.Namespace, *, gguf: bool, lazy: bool) -> Opened:
    """The leaves of a network, and what its GGUF file says, or will."""
    network, path = named_network(args, lazy=lazy), _own_file(args)
    arrays = leaves_of(network)
    if path.suffix == ".gguf":
        return Opened(arrays, open_source(path).metadata, "gguf", network)
    if not gguf:
        return Opened(arrays, {}, None, network)
    from wlab.pretrained.networks.gguf import gguf_map, gguf_metadata

    named = replace(network, name_map=gguf_map(network.config))
    return Opened(arrays, gguf_metadata(network), "gguf", named)


def _in_ggml_names(args: argparse.Namespace) -> Opened:
    """The arrays that a GGUF file of a network would have, each read when its turn comes."""
    from wlab import pretrained

    arrays, metadata = pretrained.to_gguf(named_network(args, lazy=True))
    return Opened(arrays, metadata, "gguf")


def _own_file(args: argparse.Namespace) -> Path:
    """The GGUF file behind a name of the shelf, if it has one."""
    from wlab import pretrained

    if not shelf.is_named(args.source):
        return Path(args.source)
    folder = pretrained.fetch(args.source, file=args.file, cache=args.cache)
    file = folder / "model.gguf"
    return file if file.exists() else folder


def _lazy(leaf: Any) -> Lazy:
    if isinstance(leaf, Lazy):
        return leaf
    dtype = np.dtype(leaf.dtype)
    return Lazy(tuple(leaf.shape), dtype.name, leaf.size * dtype.itemsize, lambda: np.asarray(leaf))
