"""GPTQ on a network that wlab knows, from a text."""

import argparse
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wlab.cli.quantized_source import Opened, tokens_of


def by_gptq(
    args: argparse.Namespace, source: Opened, choices: Mapping[str, Any]
) -> Callable[[str, np.ndarray, Any], Any]:
    """Reads the text with the network, rounds its kernels, and hands them out by path.

    Raises:
        ValueError: If the network reads no text, the text is too short, or GPTQ cannot round a
            leaf that was chosen, naming it.
    """
    from wlab import quantization
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
    with progress("gptq, the text", len(batches), unit="windows") as told:
        found = quantization.gptq(
            lambda params, tokens: network.model.apply(params, tokens),
            network.params,
            batches,
            [*rules, (".*", None)],
            report=lambda stage, done: told(done),
        )
    return lambda name, array, format: found.matrices[name]


def _batches(args: argparse.Namespace, network: Any) -> list[tuple[np.ndarray]]:
    from wlab.data import windows

    rows = windows(tokens_of(network, args), args.context)[: args.windows]
    return [(row[None, :-1],) for row in rows]
