"""An adapter that PEFT saved, as one of ours."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab import tree
from wlab.pretrained.adapters.arrays import PeftArrays, read_arrays
from wlab.pretrained.adapters.config import PeftConfig, read_config
from wlab.pretrained.adapters.mapped import Mapped, aligned, leaves_by_map
from wlab.pretrained.adapters.seating import Matrices, seated, with_axes
from wlab.pretrained.adapters.seats import seats, shapes_in_file
from wlab.pretrained.name_map import Move, NameMap
from wlab.pretrained.networks.network import Network
from wlab.pretrained.ops import forward, inverse
from wlab.transfer import Adaptation, Adapter, Base, Factors, lora
from wlab.transform import Params


def load_adapter(
    folder: str | Path,
    net: Network | Mapped,
    *,
    base: Base | None = None,
    ignore: Sequence[str] = (),
) -> Adaptation:
    """Reads a LoRA, rsLoRA or DoRA that PEFT saved: onto linear kernels, tables, convolutions.

    A kernel that the network keeps in parts, as a fused q, k, v, gives each part an adapter with
    its rows of B and a copy of A: exactly the same change. `lora_dropout` acts in training alone
    and is left aside; all else that the configuration asks for is done or refused.

    Example:
        `found = load_adapter(folder, net)`; `found.merged(net.params)` are plain weights,
        `training.init_state(net.params, found.weights, tx, key=key)` trains on.

    Args:
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        net: The network it was trained on.
        base: How to keep the kernels under the adapters, as of `lora`.
        ignore: Regexes of arrays to leave out, as `classifier.*`, without `base_model.model.`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the file is damaged, asks for what is not done here, or does not fit the
            network.
    """
    folder = Path(folder)
    config, arrays = read_config(folder), read_arrays(folder, ignore)
    try:
        adapters, values = _adapters(config, arrays, net)
    except ValueError as error:
        raise ValueError(f"{arrays.source.path}: {error}.") from None
    whole = [path for path in values if path.rpartition("/")[0] not in adapters]
    rules = (
        *((re.escape(path), adapter) for path, adapter in adapters.items()),
        *((re.escape(path), "train") for path in whole),
        (".*", None),
    )
    adapter = next(iter(adapters.values()))
    weights = lora(adapter, rules)
    like, _ = jax.eval_shape(weights.init, net.params, jax.random.key(0))
    stored = tree.replace(like, jax.tree.map(jnp.asarray, values))
    return Adaptation(adapter, rules, stored, base)


def merge_adapter(
    folder: str | Path, net: Network | Mapped, *, ignore: Sequence[str] = ()
) -> Params:
    """The network's plain weights with an adapter of PEFT folded in; see `load_adapter`."""
    return load_adapter(folder, net, ignore=ignore).merged(net.params)


def _adapters(
    config: PeftConfig, arrays: PeftArrays, net: Network | Mapped
) -> tuple[dict[str, Adapter], dict[str, Any]]:
    """The adapter of each kernel, and the value of each leaf that is stored, by path."""
    ours, prefix = leaves_by_map(net)
    names = aligned([*(f"{module}.weight" for module in arrays.factors), *arrays.rest], net)
    modules = {names[f"{module}.weight"]: module for module in arrays.factors}
    whole = {names[name]: name for name in arrays.rest if config.is_whole(name)}
    _refuse_tied({**modules, **whole}, net.name_map)
    _refuse_another_base(
        {names[name]: name for name in arrays.rest if name not in whole.values()},
        arrays,
        net.name_map,
        ours,
    )
    adapters: dict[str, Adapter] = {}
    values: dict[str, Any] = {}
    for move in net.name_map.moves:
        if any(name in modules for name in move.theirs):
            for path, adapter, factors in _adapted(move, modules, config, arrays, ours):
                adapters[path] = adapter
                named = factors._asdict().items()
                values |= {f"{path}/{name}": x for name, x in named if x is not None}
        if any(name in whole for name in move.theirs):
            values |= _trained_whole(move, whole, arrays, ours)
    if not adapters:
        raise ValueError("it has no factors")
    outside = [path for path in values if not path.startswith(prefix)]
    if outside:
        raise ValueError(f"{outside[0]!r} is a statistic, which no optimizer trains")
    cut = len(prefix)
    return {p[cut:]: x for p, x in adapters.items()}, {p[cut:]: x for p, x in values.items()}


def _refuse_tied(names: Mapping[str, str], name_map: NameMap) -> None:
    for name, theirs in names.items():
        if name in name_map.ties or name in name_map.ties.values():
            raise ValueError(
                f"{theirs!r} is one of two tied arrays, of which PEFT changes one alone; the "
                "network keeps both in one leaf. Load the base untied, or leave it out by `ignore=`"
            )


def _refuse_another_base(
    names: Mapping[str, str], arrays: PeftArrays, name_map: NameMap, ours: Mapping[str, Any]
) -> None:
    """PEFT repeats tables of the base at times; that is well if they are the same."""
    moves = {name: move for move in name_map.moves for name in move.theirs}
    for name, theirs in names.items():
        at_home = name_map.ties.get(name, name)
        move = moves[at_home]
        now = inverse(move.ops, [np.asarray(ours[path]) for path in move.ours])
        if not np.array_equal(now[move.theirs.index(at_home)], arrays.rest[theirs].read()):
            raise ValueError(
                f"{theirs!r} is not that of the network, and modules_to_save does not name it: "
                "load it into the network first"
            )


def _adapted(
    move: Move,
    modules: Mapping[str, str],
    config: PeftConfig,
    arrays: PeftArrays,
    ours: Mapping[str, Any],
) -> Iterator[tuple[str, Adapter, Factors]]:
    """What the leaves of one move become: path, adapter, factors."""
    missing = [name for name in move.theirs if name not in modules]
    if missing:
        raise ValueError(
            f"leaf {move.ours[0]!r} joins {move.theirs}; {missing[0]!r} has no factors"
        )
    theirs = [modules[name] for name in move.theirs]
    kinds = {(config.adapter(module), arrays.is_table(module)) for module in theirs}
    if len(kinds) > 1:
        raise ValueError(f"leaf {move.ours[0]!r} joins {theirs}, whose adapters differ")
    adapter, is_table = kinds.pop()
    first = config.inputs_first or is_table
    shapes = [ours[path].shape for path in move.ours]
    kernels = [
        _matrices(module, size, config, arrays, inputs_first=first)
        for module, size in zip(theirs, shapes_in_file(move, shapes), strict=True)
    ]
    for path, seat in zip(move.ours, seats(move, shapes), strict=True):
        found = _in_dtype_of(kernels, with_axes(adapter, seat, inputs_first=first), ours[path])
        try:
            yield path, found, seated(seat, kernels, found, ours[path], inputs_first=first)
        except ValueError as error:
            raise ValueError(f"leaf {path!r}: {error}") from error


def _matrices(
    module: str,
    size: tuple[int, ...],
    config: PeftConfig,
    arrays: PeftArrays,
    *,
    inputs_first: bool,
) -> Matrices:
    """The factors of a module, once they are known to fit its kernel."""
    if not config.names(module):
        raise ValueError(f"module {module!r} has factors, but target_modules does not name it")
    found, rank = arrays.matrices(module, magnitude=config.magnitude), config.adapter(module).rank
    rows, columns = size[0], prod(size[1:])
    inputs, outputs = (rows, columns) if inputs_first else (columns, rows)
    shapes = [None if x is None else x.shape for x in found]
    wanted = [(inputs, rank), (rank, outputs), (outputs,) if config.magnitude else None]
    if shapes != wanted:
        raise ValueError(f"module {module!r}: A, B and lengths are {shapes}, {wanted} are wanted")
    return found


def _in_dtype_of(kernels: Sequence[Matrices], adapter: Adapter, kernel: Any) -> Adapter:
    dtype = np.result_type(*(x for part in kernels for x in part[:2]))
    return adapter if dtype == kernel.dtype else replace(adapter, dtype=dtype)


def _trained_whole(
    move: Move, whole: Mapping[str, str], arrays: PeftArrays, ours: Mapping[str, Any]
) -> dict[str, Any]:
    """The trained values of a move's leaves."""
    missing = [name for name in move.theirs if name not in whole]
    if missing:
        raise ValueError(f"leaf {move.ours[0]!r} needs {missing[0]!r}, which was not trained whole")
    found = forward(move.ops, [arrays.rest[whole[name]].read() for name in move.theirs])
    for path, value in zip(move.ours, found, strict=True):
        if value.shape != ours[path].shape:
            raise ValueError(f"leaf {path!r} is {value.shape}, {ours[path].shape} is wanted")
    return {p: x.astype(ours[p].dtype) for p, x in zip(move.ours, found, strict=True)}
