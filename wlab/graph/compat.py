"""All that changes in jaxprs from one version of JAX to the next.

`jax.extend` promises no compatibility; `tests/graph/test_graph_compat.py` fails where this page
needs a line.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax

# Equations that call a function once with their own operands; names differ by version.
_CALLS = """
checkpoint closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr eval_jaxpr
jit pjit remat remat2
"""
CALLS = frozenset(_CALLS.split())
_FUNCTIONS = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # the parameter that holds it


class Opened(NamedTuple):
    """A jaxpr and the values of its constants."""

    jaxpr: Any
    consts: Sequence[Any]


def opened(jaxpr: Any) -> Opened:
    """A jaxpr, whether it was closed over its constants or had none (one class since 0.11)."""
    return Opened(getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()))


def scope(equation: Any) -> AbstractContextManager[Any]:
    """Operations within bear the names of scopes and modules that profiles show the equation by."""
    names = str(equation.source_info.name_stack)
    return jax.named_scope(names) if names else nullcontext()


def closed_as(held: Any, new: Any) -> Any:
    """A jaxpr without constants, in the form in which an equation holds another."""
    return new if hasattr(held, "jaxpr") else getattr(new, "jaxpr", new)


def called(equation: Any) -> Opened | None:
    """The function that an equation calls once with its own operands; None if it is no call."""
    if equation.primitive.name not in CALLS:
        return None
    held = [equation.params[name] for name in _FUNCTIONS if name in equation.params]
    return opened(held[0]) if held else None


class Mapped(NamedTuple):
    """A `shard_map`: a function that each device runs on its own parts.

    Attributes:
        function: What runs, on shapes of one device.
        mesh: The devices.
        axes: Of the mesh, by which operands and results are cut.
        in_specs: How, of each operand.
        out_specs: Of each result.
        check_vma: Whether types tell which values differ between devices.
    """

    function: Opened
    mesh: Any
    axes: frozenset[str]
    in_specs: Sequence[Any]
    out_specs: Sequence[Any]
    check_vma: bool


def mapped(equation: Any) -> Mapped:
    """The parts of a `shard_map`."""
    params = equation.params
    return Mapped(
        opened(params["jaxpr"]),
        params["mesh"],
        frozenset(params["newly_manual_axes"]),
        params["in_specs"],
        params["out_specs"],
        params["check_vma"],
    )


def varying(aval: Any) -> frozenset[str]:
    """The mesh axes along which a value differs, as its type says; none outside `shard_map`."""
    found = getattr(aval, "manual_axis_type", None)
    return frozenset() if found is None else frozenset(found.varying)


def scan_counts(equation: Any) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried."""
    params = equation.params
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = (len(part) for part in params["ft_in"].unpack())
    return consts, carry
