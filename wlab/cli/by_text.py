"""Methods that read a text with a network, block by block: their flags, and how they are run."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from wlab.cli import reading
from wlab.cli.number import number

_LONGEST = 8  # characters a token, most likely: no more of a text is read at first


def arguments(parser: argparse.ArgumentParser, methods: Sequence[str]) -> None:
    """Declares what the methods of these names take."""
    flag, of = parser.add_argument, f"for {', '.join(methods)}"
    flag(
        "--data",
        help=f"{of}: a text file, or a text of `wlab data list`, of which the training part is "
        "read",
    )
    flag("--context", type=number(int, 1), default=128, help=f"{of}: tokens a window [128]")
    flag("--windows", type=number(int, 1), default=64, help=f"{of}: how many [64]")
    flag("--resume", type=Path, metavar="FOLDER", help=f"{of}: keep blocks that are done")


def refuse_misuse(args: argparse.Namespace, methods: Sequence[str]) -> None:
    """Exits with 2 if a flag of these methods is given to another, or one lacks its text."""
    named = f"--method {' and '.join(methods)}"
    if (args.method in methods) != (args.data is not None):
        args.usage_error(f"{named} take --data, a text to read; nothing else does.")
    if args.resume is not None and args.method not in methods:
        args.usage_error(f"--resume goes with {named}: the others take minutes.")


def run(
    method: Callable[..., Any],
    args: argparse.Namespace,
    network: Any,
    choices: Mapping[str, Any],
    **options: Any,
) -> Any:
    """What a method that comes to one block after another makes of a network.

    Each block is calibrated behind those already changed, and kept in `args.resume`.

    Args:
        method: Of a function, its weights, batches and rules, as `quantization.gptq`.
        args: With `source` and the flags above.
        network: With its weights.
        choices: What becomes of leaves, by path; the others are left alone.
        options: Of the method.

    Raises:
        ValueError: If the network reads no text, the text is too short, or as the method.
    """
    from wlab.checkpoint import finished_in
    from wlab.data.progress import progress

    batches, stages = _batches(args, network), _blocks(network, choices)
    with progress(f"{args.method}, the text", len(stages) * len(batches), unit="windows") as told:
        done = count(1)
        return method(
            lambda params, tokens: network.model.apply(params, tokens),
            network.params,
            batches,
            [*((re.escape(path), choice) for path, choice in choices.items()), (".*", None)],
            stages=stages,
            report=lambda stage, _: told(next(done)),
            finished=None if args.resume is None else finished_in(args.resume),
            **options,
        )


def _batches(args: argparse.Namespace, network: Any) -> list[tuple[np.ndarray]]:
    from wlab.data import windows

    words = reading.tokenizer(network, args.source)
    text = reading.written(args.data, args, part="train")
    wanted = args.windows * args.context + 1
    tokens = words.encode(text[: _LONGEST * wanted])
    if len(tokens) <= wanted:
        tokens = words.encode(text)
    rows = windows(np.asarray(tokens[:wanted], np.int32), args.context)
    return [(row[None, :-1],) for row in rows]


def _blocks(network: Any, choices: Mapping[str, Any]) -> list[str]:
    """A pattern for the chosen leaves of each block, in the order of the network."""
    from wlab import pretrained

    used = [use.path for use in pretrained.as_graph(network).uses]
    names = dict.fromkeys(path.split("/")[0] for path in used if path in choices)
    return [f"{re.escape(name)}(/.*)?" for name in names]
