"""GPTQ and AWQ on a network that wlab knows, from a text that it reads."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from wlab.cli import by_text
from wlab.cli.quantized_source import Opened, leaves_of

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
    """What a method makes of the leaves that have a format."""
    formats = {name: choice for name, choice in choices.items() if not isinstance(choice, str)}
    for name in formats:
        if len(source.arrays[name].shape) != 2:
            raise ValueError(
                f"leaf {name!r} of shape {source.arrays[name].shape} is not a matrix of inputs by "
                f"outputs: leave it alone with --rules '{name}=no', or take --method nearest."
            )
    return by_text.run(method, args, source.network, formats, codes_only=True)
