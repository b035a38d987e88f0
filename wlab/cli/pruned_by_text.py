"""Wanda and SparseGPT on a network that wlab knows, from a text that it reads."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from wlab.checkpoint import Lazy
from wlab.cli import by_text, thinning
from wlab.cli.quantized_source import named_network

METHODS = ("wanda", "sparsegpt")


class Pruned(NamedTuple):
    """What has become of a network.

    Attributes:
        arrays: Those that lost weights, in the names of the network's files.
        losses: Of SparseGPT: the part of a leaf's squared outputs that was lost, by its path in
            the network's tree.
    """

    arrays: dict[str, Lazy]
    losses: dict[str, float]


def pruned(args: argparse.Namespace, arrays: Mapping[str, Lazy]) -> Pruned:
    """Reads the text with the network, and prunes the leaves behind the arrays that are chosen.

    Args:
        args: Of `wlab prune`.
        arrays: Of the network's files, as they are written where they are not pruned.

    Raises:
        ValueError: If wlab knows no such network or it reads no text, a rule matches no array, a
            leaf cannot have its pattern or is in no product, or the text is too short.
    """
    from wlab import pretrained, pruning, tree

    network = named_network(args)
    moves = network.name_map.moves
    own = {name: arrays[name] for move in moves for name in move.theirs}
    shares = thinning.chosen(own, args.rules)
    leaves = tree.leaves(network.params)
    patterns = {
        path: _fitting(_pattern(args, share), leaves[path].shape, move.theirs)
        for move in moves
        for path, share in _shares(move, shares)
    }
    found = by_text.run(getattr(pruning, args.method), args, network, patterns)
    params, losses = (found.params, found.losses) if args.method == "sparsegpt" else (found, {})
    new = pretrained.export(params, network.name_map)
    return Pruned({name: _in_place_of(arrays[name], new[name]) for name in shares}, losses)


def _shares(move: Any, shares: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The share of each leaf that is made of chosen arrays.

    Raises:
        ValueError: If some of its arrays have another share, or none.
    """
    given = {shares.get(name) for name in move.theirs}
    if len(given) > 1:
        raise ValueError(
            f"arrays {', '.join(move.theirs)} are one matrix in the network: give them one share."
        )
    (share,) = given
    if share is not None:
        yield from ((path, share) for path in move.ours)


def _pattern(args: argparse.Namespace, share: Any) -> Any:
    """Wanda compares the inputs of each output, SparseGPT all of a matrix, as their papers do."""
    from wlab import pruning

    if args.density is None:
        return pruning.Neighbours(args.keep, args.of, args.remainder or "refuse")
    per = pruning.PerOutput if args.method == "wanda" else pruning.PerLeaf
    return per(args.density if share is True else share)


def _fitting(pattern: Any, shape: tuple[int, ...], names: Sequence[str]) -> Any:
    """The pattern, which a leaf of this shape can have.

    Raises:
        ValueError: If it cannot, in the names of the file.
    """
    from wlab.pruning.patterns import refuse_misfit

    try:
        refuse_misfit(pattern, shape)
    except ValueError as error:
        alone = f"--rules '{re.escape(names[0])}=no'"
        raise ValueError(f"leaf {names[0]!r}: {error} Or leave it alone with {alone}.") from None
    return pattern


def _in_place_of(old: Lazy, new: Lazy) -> Lazy:
    """An array of the network in the type that it has in the file."""

    def read() -> np.ndarray:
        return new.read().astype(old.dtype, copy=False)

    return replace(old, read=read)
