"""Parses the command line, runs one verb, prints what it found.

A verb is a file of this package with three functions: `arguments(parser)` declares its flags,
`run(args)` gives a JSON-able result, `text(result)` spells it for people. To add one, write the
file and name it in `VERBS`. Only the verb that is called gets imported.
"""

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import wlab

VERBS = {
    "classify": "what a network sees in photographs",
    "convert": "weights from one format to another",
    "data": "list datasets, or fetch one",
    "embed": "vectors of sentences, and how alike they are",
    "evaluate": "how often a network names what is in photographs",
    "filters": "what a first convolution looks for in images",
    "generate": "text from a language model",
    "inspect": "list what is in a checkpoint",
    "merge": "several models made one",
    "perplexity": "how well a language model foretells a text",
    "plan": "the bytes of a quantized file, before anything is read",
    "prune": "the smallest weights of a file set to zero",
    "quantize": "the weights of a file in few bits",
    "shrink": "a network without its smallest channels, heads and hidden units",
    "sparsity": "what is left of a pruned network, and how alike two are",
    "train": "train, prune and quantize a reference network",
    "verify": "what a quantized file has lost",
    "weights": "list real networks, fetch one, or show its leaves",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `wlab`. Returns the exit code: 0, or 1 if the task failed; misuse exits with 2."""
    argv = sys.argv[1:] if argv is None else argv
    modules = {name: importlib.import_module(f"wlab.cli.{name}") for name in VERBS if name in argv}
    args = _parser(modules).parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("wlab").setLevel(logging.INFO)
    verb = modules[args.verb]
    try:
        result = verb.run(args)
        print(json.dumps(result, indent=2) if args.json else verb.text(result), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if args.debug:
            raise
        print(f"wlab {args.verb}: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("wlab", description="Looks after the weights of networks.")
    parser.add_argument("--version", action="version", version=f"wlab {wlab.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary)
        if name in modules:
            modules[name].arguments(verb)
        verb.add_argument("--json", action="store_true", help="print the result as JSON")
        verb.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
