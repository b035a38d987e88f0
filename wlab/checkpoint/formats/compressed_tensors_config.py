"""`quantization_config` of a `config.json`: which weights are written in which scheme."""

import re
from collections.abc import Mapping
from typing import Any

from wlab.checkpoint.formats.compressed_tensors import FORMATS, Scheme

METHOD = "compressed-tensors"
_MIXED = "mixed-precision"


def quantization_config(schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """The config of weights by name, each module listed under its scheme.

    Activations are left as they are: who serves the file may say otherwise.
    """
    groups: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(_module(name))
    formats = {scheme.format for scheme in groups}
    return {
        "quant_method": METHOD,
        "format": formats.pop() if len(formats) == 1 else _MIXED,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": [],
        "config_groups": {
            f"group_{i}": {
                "targets": modules,
                "format": scheme.format,
                "weights": _weights(scheme),
                "input_activations": None,
                "output_activations": None,
            }
            for i, (scheme, modules) in enumerate(groups.items())
        },
    }


def scheme_of(name: str, config: Mapping[str, Any]) -> Scheme:
    """The scheme of the weight `name`: of an exact target, else a regex, else a class of modules.

    Raises:
        ValueError: If the config is not one of compressed-tensors, names none for it, or one that
            wlab does not read.
    """
    if config.get("quant_method") != METHOD:
        found = str(config.get("quant_method"))[:80]
        raise ValueError(f"quantization_config is of {found!r}, not of {METHOD!r}.")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping):
        raise ValueError("quantization_config has no config_groups.")
    for matches in (_is_named, _is_matched, _is_of_class):
        for group in groups.values():
            targets = group.get("targets") if isinstance(group, Mapping) else None
            if any(isinstance(t, str) and matches(t, _module(name)) for t in targets or ()):
                return _scheme(name, group, config)
    raise ValueError(f"{name!r} is quantized, and no group of quantization_config targets it.")


def _scheme(name: str, group: Mapping[str, Any], config: Mapping[str, Any]) -> Scheme:
    weights, format = group.get("weights"), group.get("format") or config.get("format")
    try:
        if not isinstance(weights, Mapping) or format not in FORMATS:
            raise ValueError(f"the format {format!r} is not one of {', '.join(FORMATS)}")
        if weights["type"] != ("float" if format == "float-quantized" else "int"):
            raise ValueError(f"{format} of type {weights['type']!r}")
        for number in ("num_bits", "group_size"):
            if type(weights.get(number)) not in (int, type(None)):
                raise ValueError(f"{number} {weights[number]!r} is not a whole number")
        if weights.get("actorder") is not None:
            raise ValueError(f"actorder {weights['actorder']!r}: its inputs are reordered")
        return Scheme(
            format=format,
            bits=weights["num_bits"],
            symmetric=bool(weights.get("symmetric", True)),
            strategy=str(weights["strategy"]),
            group_size=weights.get("group_size") if weights["strategy"] == "group" else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name!r}: its scheme is not read: {error}.") from None


def _weights(scheme: Scheme) -> dict[str, Any]:
    return {
        "num_bits": scheme.bits,
        "type": "float" if scheme.floats else "int",
        "symmetric": scheme.symmetric,
        "strategy": scheme.strategy,
        "group_size": scheme.group_size,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
    }


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _is_named(target: str, module: str) -> bool:
    return target == module


def _is_matched(target: str, module: str) -> bool:
    try:
        return target.startswith("re:") and re.match(target[3:], module) is not None
    except re.error:
        return False


def _is_of_class(target: str, module: str) -> bool:
    """Whether it may be a class, as `Linear`: what has a scale is quantized."""
    return target.isidentifier() and target[:1].isupper()
