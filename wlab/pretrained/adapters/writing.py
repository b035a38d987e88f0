"""One of our adapters, as PEFT reads it."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wlab import tree
from wlab.checkpoint import save_safetensors
from wlab.checkpoint.atomic import written_whole
from wlab.pretrained.adapters.arrays import ARRAYS, PREFIX
from wlab.pretrained.adapters.config import CONFIG
from wlab.pretrained.adapters.mapped import STATISTICS, Mapped, leaves_by_map
from wlab.pretrained.adapters.seating import (
    Matrices,
    on_the_kernel,
    reads_inputs_first,
    unseated,
)
from wlab.pretrained.adapters.seats import Axes, Seat, seats, shapes_in_file
from wlab.pretrained.name_map import Move, NameMap
from wlab.pretrained.networks.network import Network
from wlab.pretrained.ops import inverse
from wlab.transfer import Adaptation, Adapter, Factors


class Written(NamedTuple):
    """An adapted module as it is written.

    Attributes:
        size: The shape of its kernel.
        factors: Of the whole kernel.
        scale: The factor of A B.
        stabilized: Whether its α is to be read by √r.
        inputs_first: Whether the rows of its kernel are inputs.
        is_table: Whether it is an embedding.
    """

    size: Axes
    factors: Matrices
    scale: float
    stabilized: bool
    inputs_first: bool
    is_table: bool


def save_adapter(
    folder: str | Path,
    adaptation: Adaptation,
    net: Network | Mapped,
    *,
    base_model: str | None = None,
    task: str | None = None,
) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, which PEFT loads.

    Where the network keeps a kernel of the file in parts, as a fused q, k, v, parts that share A
    are written as one; others side by side, with zeros between: exactly the same change at a
    larger rank. The parts of `pissa` that were taken out of the base are put back in this way.

    Leaves named `embedding` are written as embeddings, other kernels as linear or convolution.

    Args:
        folder: Is made if need be.
        adaptation: `Adaptation(adapter, rules, state.stored)`, or what `load_adapter` gave, with
            `stored` replaced.
        net: The network that it stands on, by the names that PEFT shall see: from a GGUF file,
            `Mapped(net.params, maps.llama_hub(layers, tied=tied))`.
        base_model: The base's name on the hub, for those who read the configuration.
        task: As PEFT has it, such as `CAUSAL_LM`.

    Raises:
        ValueError: If PEFT cannot say it, naming the leaf.
    """
    ours, prefix = leaves_by_map(net)
    stored = tree.leaves(adaptation.stored.params)
    extra = [path for path in stored if path.startswith(tree.EXTRA)]
    if extra:
        raise ValueError(f"save_adapter: PEFT has no place for the extra trainable {extra[0]!r}.")
    adapters = adaptation.adapters(tree.param_leaves(net.params))
    trained = {
        prefix + path: (adapter, adaptation.stored.factors[path])
        for path, adapter in adapters.items()
    }
    try:
        modules = _modules(trained, net.name_map, ours)
        whole = _whole_modules(
            {prefix + path: x for path, x in stored.items()}, net.name_map, ours, modules
        )
        config = _config(modules, whole, base_model, task)
    except ValueError as error:
        raise ValueError(f"save_adapter: {error}.") from None
    arrays = {name: x for module, one in modules.items() for name, x in _arrays(module, one)}
    for module, found in whole.items():
        arrays |= {f"{PREFIX}{module}.{name}": x for name, x in found.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / ARRAYS, arrays, metadata={"format": "pt"})
    with written_whole(folder / CONFIG) as file:
        file.write(json.dumps(config, indent=2, sort_keys=True).encode())


def _modules(
    trained: Mapping[str, tuple[Adapter, Factors]], name_map: NameMap, ours: Mapping[str, Any]
) -> dict[str, Written]:
    """The adapted modules by name."""
    lost = sorted(set(trained) - set(name_map.ours))
    if lost:
        raise ValueError(f"leaf {lost[0]!r} has no name in the map")
    found: dict[str, Written] = {}
    for move in name_map.moves:
        if any(path in trained for path in move.ours):
            for name, written in _written(move, trained, ours).items():
                module, _, last = name.rpartition(".")
                if last != "weight":
                    raise ValueError(f"array {name!r} is not the weight of a module")
                if name in name_map.ties.values():
                    raise ValueError(
                        f"array {name!r} is tied to another, of which PEFT would change one alone: "
                        "merge the adapter and export the weights"
                    )
                found[module] = written
    return found


def _written(
    move: Move, trained: Mapping[str, tuple[Adapter, Factors]], ours: Mapping[str, Any]
) -> dict[str, Written]:
    """The kernels of a move, by the names of their arrays."""
    shapes = [ours[path].shape for path in move.ours]
    sizes = shapes_in_file(move, shapes)
    flat = [(size[0], prod(size[1:])) for size in sizes]
    parts: dict[int, list[tuple[Matrices, float]]] = {}
    kinds: set[tuple[bool, bool, bool]] = set()
    for path, seat, shape in zip(move.ours, seats(move, shapes), shapes, strict=True):
        if path not in trained:
            continue
        adapter, factors = trained[path]
        first = _inputs_first(path, seat, adapter, shape)
        is_table = path.rpartition("/")[2] == "embedding"
        if is_table and not first:
            raise ValueError(f"leaf {path!r} is a table: its rows are the inputs of an adapter")
        kinds.add((adapter.scaling == "rank_stabilized", first, is_table))
        factors = on_the_kernel(factors, adapter, ours[path])
        held = unseated(seat, factors, adapter, shape, sizes=flat, inputs_first=first)
        for k, matrices in held.items():
            parts.setdefault(k, []).append((matrices, adapter.scale))
    if len(kinds) > 1:
        raise ValueError(f"the parts {list(move.ours)} of {move.theirs[0]!r} have unlike adapters")
    (kind,) = kinds
    return {
        move.theirs[k]: Written(sizes[k], *_joined(move.theirs[k], held), *kind)
        for k, held in parts.items()
    }


def _inputs_first(path: str, seat: Seat, adapter: Adapter, shape: Axes) -> bool:
    try:
        return reads_inputs_first(seat, adapter, shape)
    except ValueError as error:
        raise ValueError(f"leaf {path!r}: {error}") from error


def _joined(name: str, parts: Sequence[tuple[Matrices, float]]) -> tuple[Matrices, float]:
    """The sum of changes of disjoint parts of a kernel, and its scale."""
    apart: list[tuple[np.ndarray, np.ndarray, float]] = []
    for part, scale in parts:
        same = [i for i, (a, _, s) in enumerate(apart) if s == scale and np.array_equal(a, part.a)]
        if same:
            a, b, _ = apart[same[0]]
            apart[same[0]] = (a, b + part.b, scale)
        else:
            apart.append((part.a, part.b, scale))
    scale = apart[0][2]
    a = np.concatenate([a for a, _, _ in apart], axis=1)
    b = np.concatenate(
        [b if s == scale else (b * (s / scale)).astype(b.dtype) for _, b, s in apart]
    )
    return Matrices(a, b, _lengths(name, [part.m for part, _ in parts])), scale


def _lengths(name: str, parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [m for m in parts if m is not None]
    if not known:
        return None
    lengths = reduce(np.fmax, known)
    if len(known) < len(parts) or np.isnan(lengths).any():
        raise ValueError(f"some outputs of {name!r} have no length: adapt all of them by DoRA")
    return lengths


def _whole_modules(
    trained: Mapping[str, Any],
    name_map: NameMap,
    ours: Mapping[str, Any],
    adapted: Collection[str],
) -> dict[str, dict[str, np.ndarray]]:
    """All arrays of each module of which a leaf is trained whole, by module and own name."""
    now = {**ours, **trained}
    moves = [move for move in name_map.moves if any(path in trained for path in move.ours)]
    modules = {name.rpartition(".")[0] for move in moves for name in move.theirs}
    found: dict[str, dict[str, np.ndarray]] = {module: {} for module in modules}
    for move in name_map.moves:
        for i, name in enumerate(move.theirs):
            module, _, last = name.rpartition(".")
            if module in modules:
                _refuse_unsayable(name, move, name_map, adapted)
                arrays = inverse(move.ops, [np.asarray(now[path]) for path in move.ours])
                found[module][last] = np.ascontiguousarray(arrays[i])
    for name in name_map.theirs:
        parents = [name[: at.start()] for at in re.finditer(r"\.", name)]
        for parent in parents:
            if parent not in modules and any(parent.endswith(module) for module in modules):
                raise ValueError(
                    f"PEFT would take {parent!r} for one of the modules {sorted(modules)}, which "
                    "are trained whole: it goes by the ends of names"
                )
    return found


def _refuse_unsayable(name: str, move: Move, name_map: NameMap, adapted: Collection[str]) -> None:
    """Arrays that cannot be among those of a module that is trained whole."""
    if name.rpartition(".")[0] in adapted:
        raise ValueError(
            f"array {name!r} is of a module that is adapted, and PEFT trains it whole or adapts it:"
            " merge the adapter and export the weights"
        )
    if name in name_map.ties.values():
        raise ValueError(f"array {name!r} is tied to another, of which PEFT would train one alone")
    if any(path.startswith(STATISTICS) for path in move.ours):
        raise ValueError(f"array {name!r} is a statistic, and its module is trained whole")


def _config(
    modules: Mapping[str, Written],
    whole: Collection[str],
    base_model: str | None,
    task: str | None,
) -> dict[str, Any]:
    """The configuration, every field of it spelled out that another reader may ask for."""
    lengths = {one.factors.m is not None for one in modules.values()}
    linear = {one.inputs_first for one in modules.values() if not one.is_table}
    if len(lengths) > 1 or len(linear) > 1:
        what = "lengths (DoRA)" if len(lengths) > 1 else "kernels as (in, out)"
        raise ValueError(f"some modules have {what} and others not, which PEFT has one word for")
    stabilized = all(one.stabilized for one in modules.values())
    ranks = {module: one.factors.a.shape[1] for module, one in modules.items()}
    alphas = {module: _alpha(one, stabilized=stabilized) for module, one in modules.items()}
    rank, alpha = (Counter(x.values()).most_common(1)[0][0] for x in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {re.escape(name): a for name, a in alphas.items() if a != alpha},
        "use_rslora": stabilized,
        "use_dora": True in lengths,
        "fan_in_fan_out": True in linear,
        "target_modules": [*modules],
        "modules_to_save": sorted(whole) or None,
        "bias": "none",
        "lora_dropout": 0.0,
        "init_lora_weights": True,
    }


def _alpha(one: Written, *, stabilized: bool) -> float | int:
    """α with which PEFT finds the same scale; a whole number where one does."""
    rank = one.factors.a.shape[1]
    divisor = math.sqrt(rank) if stabilized else rank
    alpha = one.scale * divisor
    return next((x for x in (round(alpha), round(alpha, 9)) if x / divisor == one.scale), alpha)


def _arrays(module: str, one: Written) -> Iterator[tuple[str, np.ndarray]]:
    """The factors of a module under the names and in the shapes of PEFT."""
    a, b, m = one.factors
    if one.is_table:
        yield f"{PREFIX}{module}.lora_embedding_A", np.ascontiguousarray(a.T)
        yield f"{PREFIX}{module}.lora_embedding_B", np.ascontiguousarray(b.T)
    else:
        window = (() if one.inputs_first else one.size[2:], (1,) * len(one.size[2:]))
        inputs = one.size[0] if one.inputs_first else one.size[1]
        yield f"{PREFIX}{module}.lora_A.weight", a.T.reshape(-1, inputs, *window[0])
        yield f"{PREFIX}{module}.lora_B.weight", b.T.reshape(*b.T.shape, *window[1])
    if m is not None:
        ones = (1,) * len(one.size[2:])
        yield f"{PREFIX}{module}.lora_magnitude_vector", m.reshape(*ones[:1], -1, *ones)
