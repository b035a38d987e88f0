"""All that changes in jaxprs from one version of JAX to the next.

`jax.extend` promises no compatibility; `tests/graph/test_graph_compat.py` fails where this page
needs a line.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# A call and the parameter that holds its function; names differ by version.
CALLS: Mapping[str, str] = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


class Opened(NamedTuple):
    """A jaxpr and the values of its constants."""

    jaxpr: Any
    consts: Sequence[Any]


def opened(jaxpr: Any) -> Opened:
    """A jaxpr, whether it was closed over its constants or had none (one class since 0.11)."""
    return Opened(getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()))


def called(equation: Any) -> Opened | None:
    """The function that an equation calls once with its own operands; None if it is no call."""
    params = equation.params
    name = CALLS.get(equation.primitive.name)
    if name is None:
        return None
    found = params.get(name, params.get("call_jaxpr", params.get("jaxpr")))
    return None if found is None else opened(found)


def scan_counts(equation: Any) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried."""
    params = equation.params
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = (len(part) for part in params["ft_in"].unpack())
    return consts, carry
