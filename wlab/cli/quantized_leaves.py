"""Which leaves of a file are quantized, to what, and why others are left alone."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from wlab.checkpoint import Lazy
from wlab.cli.number import number

MADE = (
    *("int2", "int3", "int4", "int5", "int6", "int8", "nf4", "ternary", "binary"),
    *("fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2"),
)
FIXED = (
    *("ggml_q4_0", "ggml_q4_1", "ggml_q5_0", "ggml_q5_1", "ggml_q8_0", "ggml_q4_k", "ggml_q6_k"),
    *("bnb_nf4", "nvfp4"),
    *("ocp_mxfp4", "ocp_mxfp6_e2m3", "ocp_mxfp6_e3m2", "ocp_mxfp8_e4m3", "ocp_mxfp8_e5m2"),
    *("qwix_int4", "qwix_int8", "torchao_int4", "torchao_int8", "float16", "bfloat16"),
)
SCALES = ("float16", "float32", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu")
METHODS = ("nearest", "hqq", "gptq", "awq")
EMBEDDING, NORM = "an embedding, gathered", "a norm"
_EMBEDDING = re.compile(
    r"embd|embed|cls_token|relative_|(^|[./_])(wte|wpe)|(^|[./])shared[./]weight", re.I
)
_NORM = re.compile(r"norm|(^|[./_])(ln([_.\d/]|$)|rms_)", re.I)
# PyTorch's and equinox's name of what has outputs first; GPT-2's has not, in the hub's files.
_OUTPUTS_FIRST = re.compile(r"(?<!c_attn|c_proj)(?<!c_fc)[./]weight$")
_DTYPES = ("float32", "bfloat16", "float16")
_ANSWERS = {"yes": True, "no": False}

Rule: TypeAlias = tuple[str, Any]
"""A regex, and True, False, or the name of a format with its group size or None."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of formats and of leaves."""
    flag = parser.add_argument
    flag("--format", required=True, choices=(*MADE, *FIXED), metavar="FORMAT", help=_formats())
    flag("--group", type=number(int, 1), help="inputs with a common scale [all of an output's]")
    flag("--scales", choices=SCALES, help="the dtype of scales [float16]")
    flag("--asymmetric", action="store_true", help="of integers: with zero points")
    flag("--axis", type=int, help="the inputs [-2; of leaves named weight those after the first]")
    flag("--method", choices=METHODS, default="nearest", help="how codes are found [nearest]")
    flag(
        "--rules",
        type=rule,
        nargs="+",
        action="extend",
        default=[],
        metavar="REGEX=VALUE",
        help="yes, no or a format of its own for leaves, as int8 or int8:64; the first match "
        "counts [floats of two or more axes, without embeddings and norms]",
    )
    flag(
        "--tree", action="store_true", help="the leaves of a network that wlab knows, not a file's"
    )


def refuse_misuse(args: argparse.Namespace) -> None:
    """Exits with 2 if a flag does not go with another."""
    made, wants_ints = args.format in MADE, args.asymmetric or args.method == "hqq"
    if not made and (args.group is not None or args.scales is not None or args.asymmetric):
        args.usage_error(f"{args.format} has groups and scales of its own: leave those flags out.")
    if wants_ints and not args.format.startswith("int"):
        what = "--asymmetric" if args.asymmetric else "--method hqq"
        args.usage_error(f"{what} takes int2 to int8, not {args.format}.")


def chosen(
    arrays: Mapping[str, Lazy], args: argparse.Namespace, *, rows: bool = False
) -> dict[str, Any]:
    """The format of each leaf that is quantized; of each other one, in words, why it is not.

    Args:
        arrays: The leaves.
        args: What `arguments` declares.
        rows: Whether rows are outputs, as in every GGUF file; then inputs are the last axis.

    Raises:
        ValueError: If a rule matches no leaf, nothing is selected, or a leaf cannot take its
            format, naming it.
        TypeError: If a selected leaf has a dtype that is not quantized.
    """
    from wlab import tree

    found = tree.match([*args.rules, (".*", None)], list(arrays), purpose="quantize")
    choices = {
        name: _choice(name, arrays[name], value, args, rows) for name, value in found.items()
    }
    if all(isinstance(choice, str) for choice in choices.values()):
        raise ValueError(
            f"none of the {len(arrays)} leaves is selected; name some with --rules 'REGEX=yes'."
        )
    return choices


def format_named(
    name: str,
    args: argparse.Namespace,
    *,
    axis: int | tuple[int, ...],
    group: int | None = None,
) -> Any:
    """The format of this name along an axis, with the scales that the flags say."""
    from wlab import quantization
    from wlab.quantization import Format, Integers, presets

    if name in FIXED:
        format = getattr(presets, name)
        return format if format.axis is None else replace(format, axis=axis)
    options = {"axis": axis, "group_size": group, "scale_dtype": args.scales or "float16"}
    if args.method == "hqq":
        return Format(Integers(int(name[3:]), symmetric=False, zero="minimum"), **options)
    if args.asymmetric:
        options["symmetric"] = False
    return getattr(quantization, name)(**options)


def planned_bytes(format: Any, shape: tuple[int, ...]) -> int:
    """Bytes of a leaf in a format, on disk and in memory alike."""
    from wlab.quantization import files
    from wlab.quantization.k_quants import KQuant, k_bytes

    if isinstance(format, KQuant):
        return k_bytes(format, shape)
    return files.planned_bytes(format, shape)


def rule(text: str) -> Rule:
    """Parses REGEX=VALUE."""
    pattern, _, value = text.rpartition("=")
    name, _, group = value.partition(":")
    known = name in MADE if group else value in (*_ANSWERS, *MADE, *FIXED)
    if not pattern or not known or not re.fullmatch(r"([1-9]\d*)?", group):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not REGEX=VALUE, the value being yes, no or a format, as int8 or int8:64"
        )
    return pattern, _ANSWERS.get(value, (name, int(group) if group else None))


def _choice(name: str, array: Lazy, value: Any, args: argparse.Namespace, rows: bool) -> Any:
    why = _why_alone(name, array)
    if value is False or (value is None and why is not None):
        return "a rule" if value is False else why
    format_name, group = value if isinstance(value, tuple) else (args.format, args.group)
    if args.method == "hqq" and not format_name.startswith("int"):
        raise ValueError(f"leaf {name!r}: --method hqq takes int2 to int8, not {format_name}.")
    if args.method != "nearest" and format_name.endswith("_k"):
        raise ValueError(f"leaf {name!r}: {format_name} takes --method nearest, not {args.method}.")
    axis = args.axis
    if axis is None:
        axis = _inputs(name, array, whole=format_name in MADE and group is None, rows=rows)
    format = format_named(format_name, args, axis=axis, group=group)
    _refuse_unfit(name, array, format, args.method)
    return format


def _inputs(name: str, array: Lazy, *, whole: bool, rows: bool) -> int | tuple[int, ...]:
    """The axes that are summed over, of a leaf of two or more.

    Args:
        name: The leaf's.
        array: The leaf.
        whole: Whether all inputs of an output have one scale: then they may be several axes.
        rows: Whether rows are outputs whatever the name.
    """
    if not rows and not _OUTPUTS_FIRST.search(name):
        return -2
    if len(array.shape) <= 2:
        return -1
    if not whole:
        raise ValueError(
            f"leaf {name!r} of {list(array.shape)} is a convolution whose inputs are all axes but "
            f"the first: leave groups out, give it --rules '{re.escape(name)}=int8', or say --axis."
        )
    return tuple(range(1, len(array.shape)))


def _why_alone(name: str, array: Lazy) -> str | None:
    """Why a leaf that no rule names is left alone; None if it is not."""
    checks: Sequence[tuple[Callable[[], Any], str]] = (
        (lambda: "float" not in array.dtype, "not floats"),
        (lambda: _NORM.search(name), NORM),
        (lambda: len(array.shape) < 2, "1-D" if array.shape else "a scalar"),
        (lambda: 0 in array.shape, "empty"),
        (lambda: _EMBEDDING.search(name), EMBEDDING),
    )
    return next((why for holds, why in checks if holds()), None)


def _refuse_unfit(name: str, array: Lazy, format: Any, method: str) -> None:
    import jax

    from wlab.quantization.formats import check_leaf
    from wlab.quantization.hqq import check_hqq_leaf
    from wlab.quantization.k_quants import KQuant, check_k_leaf

    alone = f"leave it alone with --rules '{re.escape(name)}=no'"
    if array.dtype not in _DTYPES:
        raise TypeError(
            f"leaf {name!r} is {array.dtype}, which is not quantized. Give --dtype float32, or "
            f"{alone}."
        )
    check: Callable[..., None] = check_hqq_leaf if method == "hqq" else check_leaf
    if isinstance(format, KQuant):
        check = check_k_leaf
    try:
        check(jax.ShapeDtypeStruct(array.shape, array.dtype), format, repr(name))
    except ValueError as error:
        raise ValueError(f"leaf {error} Or {alone}.") from None


def _formats() -> str:
    return f"{', '.join(MADE)}; or of other tools: {', '.join(FIXED)}"
