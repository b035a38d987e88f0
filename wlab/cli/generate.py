"""`wlab generate NAME|PATH PROMPT`: text from a decoder, as it comes."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from wlab.cli import reading, shelf
from wlab.cli.number import number


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    flag = parser.add_argument
    shelf.network_arguments(parser, "network")
    flag("prompt", nargs="+", help="texts to go on from, a row each")
    flag("--chat", action="store_true", help="put each as a question, by the network's template")
    flag("--system", metavar="TEXT", help="with --chat: what the network is told beforehand")
    flag("--steps", type=number(int, 1), default=64, help="tokens to draw [64]")
    flag("--temperature", type=number(float, 0), default=1.0, help="0 takes the likeliest [1]")
    flag("--top-p", type=number(float, 1e-9, 1), default=1.0, help="mass of the nucleus [1]")
    flag("--seed", type=number(int, 0, 2**32 - 1), default=0)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The texts; seconds of loading and of compiling, and how fast tokens come after that."""
    import jax

    from wlab.models import empty_cache, generate

    if args.system is not None and not args.chat:
        args.usage_error("--system goes with --chat.")
    began = time.monotonic()
    network = shelf.network(args.network, args)
    loaded = time.monotonic()
    words = reading.tokenizer(network, args.network)
    prompts = [_read(prompt, words, args) for prompt in args.prompt]
    given = [[] if args.chat else prompt for prompt in prompts]  # shown before what is drawn
    rows: list[list[int]] = [[] for _ in prompts]
    shown, drawn_at = "", [time.monotonic()]
    for drawn in generate(
        network.model.apply,
        network.params,
        prompts,
        empty_cache=partial(empty_cache, network.config),
        steps=args.steps,
        key=jax.random.key(args.seed),
        temperature=args.temperature,
        top_p=args.top_p,
    ):
        drawn_at.append(time.monotonic())
        ended = [words.eos in row for row in rows]
        rows = [
            row if end else [*row, int(token)]
            for row, token, end in zip(rows, drawn, ended, strict=True)
        ]
        if len(rows) == 1 and not args.json:
            shown = _show(words.decode([*given[0], *rows[0]]), shown)
        if all(words.eos in row for row in rows):
            break
    start, pace = _paces(drawn_at)
    texts = [words.decode([*p, *row]) for p, row in zip(given, rows, strict=True)]
    return {
        "texts": texts,
        "tokens": sum(map(len, rows)),
        "load_s": round(loaded - began, 2),
        "start_s": round(start, 1),
        "tokens_per_s": pace and round(len(rows) / pace, 1),
    }


def text(result: dict[str, Any]) -> str:
    """The texts, if they have not been shown as they came, and the speed."""
    shown = [] if len(result["texts"]) == 1 else result["texts"]
    speed = f"{result['tokens']} token{'s' if result['tokens'] > 1 else ''}"
    if result["tokens_per_s"] is not None:
        speed += f", {result['tokens_per_s']} a second"
    spent = f"{result['load_s']} s to load, {result['start_s']} s to compile and read the prompt"
    if result["start_s"] > 5 and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        spent += ": less the next time, if $JAX_COMPILATION_CACHE_DIR names a folder"
    return "\n\n".join([*shown, f"\n({speed}; {spent})"])


def _paces(drawn_at: Sequence[float]) -> tuple[float, float | None]:
    """Seconds lost at the start, and seconds between tokens thereafter, from the third on.

    Reading the prompt and going on by one token are a program each, to compile.
    """
    gaps = [after - before for before, after in pairwise(drawn_at)]
    pace = statistics.median(gaps[2:]) if gaps[2:] else None
    return max(sum(gaps) - (pace or 0) * len(gaps), 0), pace


def _read(prompt: str, words: Any, args: argparse.Namespace) -> list[int]:
    """The tokens of a text to go on from, or of a question to answer."""
    if not args.chat:
        return words.encode(prompt)
    from wlab.pretrained.text import apply_chat_template

    if words.chat_template is None:
        raise ValueError(f"{args.network} has no template for conversations: leave out --chat.")
    told = [] if args.system is None else [{"role": "system", "content": args.system}]
    return apply_chat_template(words, [*told, {"role": "user", "content": prompt}])


def _show(now: str, before: str) -> str:
    """Writes what is new. A character whose last bytes are still missing waits for them."""
    whole = now.rstrip("\N{REPLACEMENT CHARACTER}")
    sys.stdout.write(whole[len(before) :])
    sys.stdout.flush()
    return whole
