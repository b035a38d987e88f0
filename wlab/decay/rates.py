"""Rates: a number or a schedule of the step for each leaf, chosen by rules.

Extra trainables (`+/a/kernel`, a learned step size) have no rate unless a rule names them: only
a pattern that starts with `\\+/` matches one, so `.*kernel` never decays a step size by accident.
"""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Inexact, Int

from wlab.tree import EXTRA, Rules, match, paths, refuse_no_pairs, resolve
from wlab.tree.paths import Tree

Rate: TypeAlias = float | int | jax.Array | optax.Schedule
RateRules: TypeAlias = Rules[Rate | None]

_NAMES_AN_EXTRA = r"\+/"


def check_rates(rules: RateRules, purpose: str) -> None:
    """Refuses a rate that is negative, not finite, or no rate at all.

    Raises:
        ValueError: Naming the rule.
        TypeError: If the rules are no list of pairs.
    """
    refuse_no_pairs(rules, purpose)
    for pattern, rate in rules:
        if not _is_rate(rate):
            raise ValueError(
                f"{purpose}: the rate of rule {pattern!r} is {rate!r}; "
                "give a number of at least 0, a schedule of the step, or None."
            )


def resolve_rates(rules: RateRules, params: Tree, purpose: str) -> dict[str, Rate | None]:
    """The rate of each leaf by path; None leaves the leaf alone.

    Raises:
        ValueError: If a parameter has no rule, or a rule is the first match of no leaf.
    """
    plain = [rule for rule in rules if not rule[0].startswith(_NAMES_AN_EXTRA)]
    named = [rule for rule in rules if rule[0].startswith(_NAMES_AN_EXTRA)]
    extras = [path for path in paths(params) if path.startswith(EXTRA)]
    return {
        **resolve(plain, params, purpose=purpose),
        **match([*named, (".*", None)], extras, purpose=purpose),
    }


def rate_at(rate: Rate, step: Int[Array, ""], dtype: jnp.dtype) -> Inexact[Array, ""]:
    """The rate after `step` updates, in the dtype it will act in."""
    return jnp.asarray(rate(step) if callable(rate) else rate, dtype)


def normalized(rate: float, *, batch_size: int, examples: int, epochs: float | int) -> float:
    r"""The rate for a budget: $\lambda = \lambda_{norm}\sqrt{b / (B T)}$.

    `rate` is what one single batch pass would use; longer runs get less.

    Args:
        rate: $\lambda_{norm}$; 0.025–0.05 were best on CIFAR-10 and ImageNet32x32.
        batch_size: Examples a step, b.
        examples: Training examples, B.
        epochs: Passes over them, T.
    Raises:
        ValueError: If a size is not positive.
    Reference:
        Loshchilov & Hutter 2019 (arXiv:1711.05101), appendix B.1.
    """
    if min(batch_size, examples, epochs) <= 0:
        raise ValueError(
            "normalized: batch_size, examples and epochs must be positive, got "
            f"{batch_size}, {examples} and {epochs}."
        )
    return rate * math.sqrt(batch_size / (examples * epochs))


def _is_rate(rate: object) -> bool:
    if isinstance(rate, bool):
        return False
    if isinstance(rate, float | int):
        return math.isfinite(rate) and rate >= 0
    return rate is None or callable(rate) or isinstance(rate, jax.Array)
