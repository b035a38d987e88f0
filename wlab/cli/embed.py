"""`wlab embed NAME|FOLDER TEXT …`: vectors of sentences, and how alike they are."""

import argparse
from typing import Any

from wlab.cli import shelf
from wlab.table import Table


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    shelf.network_arguments(parser, "network")
    flag("text", nargs="+", help="sentences")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The sentences, their vectors of length 1, and the cosine of each pair."""
    from wlab.pretrained import sentence_vectors

    vectors = sentence_vectors(shelf.network(args.network, args), args.text)
    cosines = (vectors @ vectors.T).round(4).tolist()
    return {"texts": args.text, "vectors": vectors.tolist(), "cosines": cosines}


def text(result: dict[str, Any]) -> str:
    """The cosines."""
    names = [str(i + 1) for i in range(len(result["texts"]))]
    rows = zip(names, result["texts"], result["cosines"], strict=True)
    return str(Table(("", "text", *names), tuple((n, t, *cosines) for n, t, cosines in rows)))
