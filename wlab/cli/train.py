"""`wlab train`: a reference network, from He's rule to a pruned and quantized one; resumable.

    wlab train --data mnist --density 0.08 --bits 4 --out runs/a

With `--out` a run that was cut off goes on where its last checkpoint is: repeat the command.
SIGTERM saves and exits with 75.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wlab.cli.number import number
from wlab.table import Table

RATES = {  # each optimizer's default learning rate
    "sgd": 0.1,
    "momentum": 0.02,
    "adagrad": 0.02,
    "rmsprop": 1e-3,
    "adam": 1e-3,
    "adamw": 1e-3,
    "lion": 2e-4,
    "muon": 0.02,
}
DECOUPLED = ("adamw", "lion", "muon")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags; their defaults train LeNet-300-100 on the embedded digits."""
    _what(parser.add_argument_group("what is trained").add_argument)
    _how(parser.add_argument_group("how").add_argument)
    _weights(parser.add_argument_group("what becomes of the weights").add_argument)
    _where(parser.add_argument_group("where").add_argument)
    _files(parser.add_argument_group("what is written").add_argument)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains up to `--steps` and evaluates what the model sees."""
    if args.out is None and (args.fresh or args.tensorboard):
        args.usage_error("--fresh and --tensorboard need --out DIR.")
    if args.file is not None and args.data == "digits":
        args.usage_error("the digits need no --file: name the --data it holds.")
    if args.coordinator is None and (args.processes or args.process) is not None:
        args.usage_error("--processes and --process need --coordinator HOST:PORT.")
    if args.lr is None:
        args.lr = RATES[args.optimizer]
    if args.warmup is None:
        args.warmup = args.steps // 20
    if args.decay is None:
        args.decay = 0.01 if args.optimizer in DECOUPLED else 0.0
    from wlab.cli.trainer import train

    return train(args)


def text(result: dict[str, Any]) -> str:
    """A line a figure."""
    return str(Table(("", "result"), tuple(result.items())))


def _what(flag: Callable[..., Any]) -> None:
    flag("--data", choices=("digits", "mnist", "cifar10"), default="digits")
    flag("--file", type=Path, help="the data's archive or folder, if you have it")
    flag("--model", choices=("lenet-300-100", "lenet-5"), default="lenet-300-100")
    flag("--seed", type=number(int, 0, 2**32 - 1), default=0, help="of weights and data order")


def _how(flag: Callable[..., Any]) -> None:
    flag("--steps", type=number(int, 1), default=2000, help="in all [2000]")
    flag("--batch", type=number(int, 1), default=64, help="examples a step [64]")
    flag("--accumulate", type=number(int, 1), default=1, help="microbatches a step")
    flag("--optimizer", choices=tuple(RATES), default="adamw")
    flag("--lr", type=number(float, 0), help="peak learning rate [by optimizer]")
    flag("--schedule", choices=("cosine", "wsd", "constant"), default="cosine")
    flag("--warmup", type=number(int, 0), help="steps [a twentieth]")
    flag(
        "--decay",
        type=number(float, 0),
        help="of the kernels: decoupled for adamw, lion, muon [0.01], else L2 [0]",
    )
    flag("--clip", type=number(float, 0), help="largest norm of the gradient")
    flag("--bf16", action="store_true", help="compute in bfloat16, store in float32")
    flag(
        "--guard",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="drop steps with a NaN or an infinity, stop after 10 in a row [on]",
    )


def _weights(flag: Callable[..., Any]) -> None:
    flag("--density", type=number(float, 0, 1), help="fraction of each kernel kept at the end")
    flag("--bits", type=int, choices=range(2, 9), help="of each kernel's weights as seen")
    flag("--ema", type=number(float, 0, 1), help="decay of an average, evaluated as well")


def _where(flag: Callable[..., Any]) -> None:
    flag(
        "--mesh",
        metavar="AXES",
        default="data=-1",
        help='such as "data=4,model=2" [all devices as data]',
    )
    flag("--mode", choices=("jit", "shard_map", "pmap"), default="jit")
    flag("--fsdp", action="store_true", help="split weights over the data axis too")
    flag("--coordinator", metavar="HOST:PORT", help='of process 0, or "auto" on a cluster')
    flag("--processes", type=number(int, 1), help="how many there are")
    flag("--process", type=number(int, 0), help="which one this is")


def _files(flag: Callable[..., Any]) -> None:
    flag("--out", type=Path, help="folder of checkpoints, metrics.jsonl and recipe.json")
    flag("--fresh", action="store_true", help="move an earlier --out aside and start anew")
    flag("--save-every", type=number(int, 1), default=500, help="steps [500]")
    flag("--keep", type=number(int, 2), default=3, help="newest checkpoints that stay [3]")
    flag("--eval-every", type=number(int, 1), help="steps [at the end only]")
    flag("--tensorboard", action="store_true", help="also write to --out/tensorboard")
    flag("--wandb", metavar="PROJECT", help="also log to Weights & Biases")
    flag("--no-progress", action="store_true", help="show no bar")
