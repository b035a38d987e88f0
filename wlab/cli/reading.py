"""What verbs read: a file of text, or a part of a text of `wlab data list`, by a tokenizer."""

import argparse
from pathlib import Path
from typing import Any


def written(name: str, args: argparse.Namespace, *, part: str) -> str:
    """The text of a file, or of this part of a text by name, or of its first if it has none such.

    Args:
        name: A path, or one of `wlab data list`.
        args: With `cache`.
        part: `test` to judge a network on, `train` to change it by.

    Raises:
        ValueError: If it is no text in UTF-8, as images are not.
    """
    from wlab import data

    try:
        if name not in data.SOURCES:
            return Path(name).read_text(encoding="utf-8")
        files = data.read_text(name, cache=args.cache)
        return files.get(part, next(iter(files.values()))).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is no text in UTF-8: {error.reason} at byte {error.start}."
        ) from None


def tokenizer(network: Any, name: str) -> Any:
    """The tokenizer of a network.

    Raises:
        ValueError: If it has none, naming the network.
    """
    if network.tokenizer is None:
        raise ValueError(f"{name} has no tokenizer: a text cannot be read.")
    return network.tokenizer
