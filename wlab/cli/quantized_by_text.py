"""GPTQ and AWQ on a network that wlab knows, from a text that it reads."""

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from wlab.cli.quantized_source import Opened, leaves_of, tokens_of

Method: TypeAlias = Callable[[str, np.ndarray, Any], Any]
"""A leaf's path, its array and its format → the QTensor."""


def by_gptq(args: argparse.Namespace, source: Opened, choices: Mapping[str, Any]) -> Method:
    """Reads the text with the network, rounds its kernels, and hands them out by path.

    Block by block: each is calibrated behind those already rounded, and kept in `args.resume`.

    Raises:
        ValueError: If the network reads no text, the text is too short, or a leaf that was chosen
            is no matrix, naming it.
    """
    from wlab import quantization

    return _codes_of(_run(quantization.gptq, args, source, choices))


def _blocks(network: Any, choices: Mapping[str, Any]) -> list[str]:
    """A pattern for the leaves of each block that are rounded, in the order of the network."""
    from wlab import pretrained

    used = [use.path for use in pretrained.as_graph(network).uses]
    chosen = [path for path in used if not isinstance(choices.get(path, ""), str)]
    return [f"{re.escape(first)}(/.*)?" for first in dict.fromkeys(p.split("/")[0] for p in chosen)]


def by_awq(
    args: argparse.Namespace, source: Opened, choices: Mapping[str, Any]
) -> tuple[Opened, Method]:
    """The network with the same outputs whose weights lose less when rounded, and these rounded.

    Block by block, as `by_gptq`. Ranges are cut where scales span the inputs of an output, as the
    paper's program does.

    Raises:
        ValueError: As `by_gptq`.
    """
    from wlab import graph, quantization

    params, formats = source.network.params, [f for f in choices.values() if not isinstance(f, str)]
    clip = all(format.axes(2) == (0,) for format in formats)
    found = _run(partial(quantization.awq, clip=clip), args, source, choices)
    for channels, s in found.moved:
        params = graph.rescale(params, channels, s)
    network = replace(source.network, params=params)
    return source._replace(arrays=leaves_of(network), network=network), _codes_of(found)


def _codes_of(found: Any) -> Method:
    return lambda name, array, format: found.matrices[name]


def _run(
    method: Callable[..., Any], args: argparse.Namespace, source: Opened, choices: Mapping[str, Any]
) -> Any:
    """What a method that comes to one block after another makes of the network and the text."""
    from wlab.checkpoint import finished_in
    from wlab.data.progress import progress

    network = source.network
    for name, choice in choices.items():
        if not isinstance(choice, str) and len(source.arrays[name].shape) != 2:
            raise ValueError(
                f"leaf {name!r} of shape {source.arrays[name].shape} is not a matrix of inputs by "
                f"outputs: leave it alone with --rules '{name}=no', or take --method nearest."
            )
    batches = _batches(args, network)
    rules = [(re.escape(n), f) for n, f in choices.items() if not isinstance(f, str)]
    stages = _blocks(network, choices)
    with progress(f"{args.method}, the text", len(stages) * len(batches), unit="windows") as told:
        done = count(1)
        return method(
            lambda params, tokens: network.model.apply(params, tokens),
            network.params,
            batches,
            [*rules, (".*", None)],
            stages=stages,
            report=lambda stage, _: told(next(done)),
            finished=None if args.resume is None else finished_in(args.resume),
            codes_only=True,
        )


def _batches(args: argparse.Namespace, network: Any) -> list[tuple[np.ndarray]]:
    from wlab.data import windows

    rows = windows(tokens_of(network, args), args.context)[: args.windows]
    return [(row[None, :-1],) for row in rows]
