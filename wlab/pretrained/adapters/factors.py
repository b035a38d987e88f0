"""What was trained beside a frozen base, in one safetensors file that knows its base.

The arrays are the leaves of `stored` under their paths. The header says what each adapter is, and
for each leaf of the base its type and a digest of its bits: so the file holds nothing of the base,
and is not laid over another one in silence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp

from wlab import tree
from wlab.checkpoint import Source, open_source, save_safetensors
from wlab.checkpoint.digest import digests
from wlab.checkpoint.nested import fill
from wlab.checkpoint.steps import PathLike
from wlab.transfer import (
    Adaptation,
    Adapter,
    AdapterState,
    Base,
    Factors,
    embedding,
    gaussian,
    he_uniform,
    lora,
    pissa,
)
from wlab.transform import Params

_STARTS = {start.__name__: start for start in (he_uniform, gaussian, embedding, pissa)}
_SHOWN = 8


def save_factors(path: PathLike, adaptation: Adaptation, state: AdapterState) -> None:
    """Writes what is trained, and which base it belongs to. The file appears whole or not at all.

    It takes the bytes of the factors, of the leaves that are trained whole, and a line of text for
    each leaf. Moments are in the ordinary checkpoint.

    Args:
        path: The file, by custom ending in `.safetensors`.
        adaptation: With `stored` as it is now: `Adaptation(adapter, rules, state.stored)`.
        state: What `lora` keeps: `state.weights`, or `state.weights["lora"]` in a chain.

    Raises:
        ValueError: If rules and state do not fit, or a leaf's dtype has no place in the format.
    """
    rest = tree.param_leaves(adaptation.stored.params)
    adapters = adaptation.adapters([*rest, *state.base, *state.frozen])
    fields = {name: _fields(adapter) for name, adapter in adapters.items()}
    texts = {"adapters": json.dumps(fields), "base": json.dumps(_fingerprint(state))}
    save_safetensors(path, adaptation.stored, metadata=texts)


def load_factors(
    path: PathLike, params: Params, *, base: Base | None = None, allow: Sequence[str] = ()
) -> Adaptation:
    """Reads what `save_factors` wrote, over the base that it belongs to.

    Args:
        path: The file.
        params: The parameters that `lora` was given: in front of a tie, those that the tie stores.
        base: As given to `lora`.
        allow: Regexes of leaves of the base that may hold other values than they did, as the
            residuals of `pissa` on another machine, which differ by rounding.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If the file is damaged, is none of `save_factors`, or does not belong to this
            base, naming the leaves.
    """
    source = open_source(path)
    adapters, there = _header(source)
    whole = [name for name in source.arrays if not _belongs(name, adapters)]
    rules = (
        *((re.escape(name), adapter) for name, adapter in adapters.items()),
        *((re.escape(name), "train") for name in whole if not name.startswith(tree.EXTRA)),
        (".*", None),
    )
    adapter = next(iter(adapters.values()))
    weights = lora(adapter, rules, base=base)
    fresh, state = jax.jit(weights.init)(params, jax.random.key(0))
    _refuse_another_base(source, there, _fingerprint(state), allow)
    found = {name: array.read() for name, array in source.arrays.items()}
    stored = jax.tree.map(jnp.asarray, fill(fresh, found, source=str(source.path)))
    return Adaptation(adapter, rules, stored, base)


def _fields(adapter: Adapter) -> dict[str, Any]:
    """An adapter as JSON; of its start only the name."""
    return asdict(adapter) | {
        "start": getattr(adapter.start, "__name__", ""),
        "dtype": None if adapter.dtype is None else jnp.dtype(adapter.dtype).name,
    }


def _adapter(fields: Mapping[str, Any]) -> Adapter:
    """The inverse. A start of the user's own counts as one that leaves the base alone: whether
    it did, the digests tell."""
    axes = {name: _axes(fields[name]) for name in ("in_axis", "out_axis", "batch_axis")}
    start = _STARTS.get(fields["start"], he_uniform)
    dtype = None if fields["dtype"] is None else jnp.dtype(fields["dtype"])
    return Adapter(**{**fields, **axes, "start": start, "dtype": dtype})


def _axes(axes: int | list[int]) -> int | tuple[int, ...]:
    return axes if isinstance(axes, int) else tuple(axes)


def _header(source: Source) -> tuple[dict[str, Adapter], dict[str, list[Any]]]:
    """The adapters and the fingerprint of the base, by path."""
    try:
        fields, base = (json.loads(source.metadata[name]) for name in ("adapters", "base"))
        adapters = {path: _adapter(one) for path, one in fields.items()}
        if not adapters or not isinstance(base, dict):
            raise ValueError("it lists none")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{source.path}: the header does not say which adapters these are ({error}). "
            "load_factors reads what save_factors wrote; for files of PEFT use load_adapter."
        ) from None
    return adapters, base


def _belongs(name: str, adapters: Mapping[str, Adapter]) -> bool:
    kernel, _, factor = name.rpartition("/")
    return kernel in adapters and factor in Factors._fields


def _fingerprint(state: AdapterState) -> dict[str, list[Any]]:
    """The type and the digest of each leaf that never moves."""
    found = tree.leaves({**state.base, **state.frozen})
    bits = digests(found)
    return {path: [tree.describe(leaf), bits[path]] for path, leaf in found.items()}


def _refuse_another_base(
    source: Source,
    there: Mapping[str, list[Any]],
    here: Mapping[str, list[Any]],
    allow: Sequence[str],
) -> None:
    faults = []
    for path in {**there, **here}:
        (was, bits), (now, others) = (one.get(path, ["absent", 0]) for one in (there, here))
        if was != now:
            faults.append(f"{path!r} was {was} and is {now}")
        elif bits != others and not any(re.fullmatch(pattern, path) for pattern in allow):
            faults.append(f"{path!r} has other values")
    if faults:
        raise ValueError(
            f"{source.path} belongs to another base: {'; '.join(faults[:_SHOWN])} "
            f"({len(faults)} leaves). Load the parameters, and give the `base=`, that it was "
            "trained with, or name leaves whose values may differ in `allow`."
        )
