"""What a decay will really do: half-lives, and rates that rounding swallows.

Storing `w - r·w` rounds to the nearest float, so a small `r` never moves `w` at all.
"""

import logging
import math
from typing import Any

import jax
import jax.numpy as jnp

from wlab.decay.rates import Rate, RateRules, resolve_rates
from wlab.tree import Table, leaves
from wlab.tree.paths import Tree

_LOG = logging.getLogger("wlab.decay")


def report(params: Tree, rules: RateRules, lr: Rate = 1.0, *, step: int = 0) -> Table:
    r"""A row a leaf: its shrinkage a step $r = lr\cdot\lambda$, its half-life, what moves.

    Half-life is $\ln 2 / r$ steps. `decays` says which weights decay alone can move in the
    leaf's dtype: `none` for $r \le \epsilon/4$ (bfloat16: 2⁻⁹), `some` up to $\epsilon/2$ (those
    with a large mantissa, until it is small), `all` above.

    Args:
        params: Arrays or shapes.
        rules: The rules given to `decoupled`, `cautious`, `toward` or `independent`.
        lr: What multiplies the rates; 1 for `independent`.
        step: Where schedules are read.
    Raises:
        ValueError: If a leaf has no rule or a rule no leaf.
    """
    rates = resolve_rates(rules, params, "decay report")
    scale = _number(lr, step)
    rows = []
    for path, leaf in leaves(params).items():
        rate = rates[path]
        shrink = None if rate is None else scale * _number(rate, step)
        dtype = jnp.result_type(leaf)
        half_life = math.log(2) / shrink if shrink else None
        rows.append((path, dtype.name, shrink, half_life, _moved(shrink, dtype)))
    return Table(("path", "dtype", "rate", "half_life", "decays"), tuple(rows))


def underflow(params: Tree, rules: RateRules, lr: Rate = 1.0, *, step: int = 0) -> list[str]:
    """The paths of the leaves that decay alone can never move; arguments as `report`."""
    rows = report(params, rules, lr, step=step).records()
    return [row["path"] for row in rows if row["decays"] == "none"]


def warn_underflow(params: Tree, rules: RateRules, lr: Rate, purpose: str) -> None:
    """Logs the leaves that never decay, where lr and rates are constants known by now."""
    known = [rule for rule in rules if rule[1] is None or isinstance(rule[1], float | int)]
    if len(known) < len(rules) or not isinstance(lr, float | int):
        return
    if stuck := underflow(params, rules, lr):
        _LOG.warning(
            "%s: lr · rate is too small to move any weight of %s in the dtype they are stored "
            "in. Store them in float32 (and cast inside the loss), or raise the rate.",
            purpose,
            stuck,
        )


def _number(rate: Rate, step: int) -> float:
    with jax.ensure_compile_time_eval():
        return float(jnp.asarray(rate(jnp.int32(step)) if callable(rate) else rate))


def _moved(shrink: float | None, dtype: Any) -> str | None:
    if not shrink or not jnp.issubdtype(dtype, jnp.inexact):
        return None
    eps = float(jnp.finfo(dtype).eps)
    return "none" if shrink <= eps / 4 else "some" if shrink <= eps / 2 else "all"
