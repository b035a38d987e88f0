"""Numbers on the command line, held within their bounds."""

import argparse
import math
from collections.abc import Callable
from typing import Any


def number(kind: type, low: float | int, high: float | int = math.inf) -> Callable[[str], Any]:
    """The `type=` of a flag whose value is of `kind` and between `low` and `high`."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is outside [{low}, {high}]")
        return value

    parse.__name__ = kind.__name__  # argparse names it where `kind` refuses the text
    return parse
