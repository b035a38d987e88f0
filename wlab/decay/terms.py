"""The terms of a decay, each an optax transformation; where it stands gives it its meaning.

    optax.chain(l2(rules), optax.scale_by_adam(), optax.scale_by_learning_rate(lr))
    optax.chain(optax.scale_by_adam(), decoupled(rules), optax.scale_by_learning_rate(lr))
    optax.chain(optax.adam(lr), independent(rules))

Rules give each leaf a rate, a schedule of the step, or None. They are read at `init` and while
tracing, from paths alone. A tied leaf is stored once, so it decays once. A weight that is zero
stays zero: its term is exactly zero (`toward` says how it keeps this).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Inexact, Int

from wlab.decay.rates import Rate, RateRules, check_rates, rate_at, resolve_rates
from wlab.decay.report import warn_underflow
from wlab.tree import leaves, replace
from wlab.tree.paths import Tree

Update: TypeAlias = Inexact[Array, "*shape"]
Term: TypeAlias = Callable[[Update, Update, Inexact[Array, ""]], Update]


class DecayState(NamedTuple):
    """The number of updates so far: where rates that are schedules are read."""

    step: Int[Array, ""]


def decoupled(rules: RateRules, *, lr: Rate | None = None) -> optax.GradientTransformation:
    r"""Shrinks each weight by lr times its rate a step, as AdamW does.

    $u \leftarrow u + \lambda_t w$. Stands after the optimizer's scaling and before the learning
    rate, which multiplies both. With zero gradients $w_t = w_0(1 - lr\,\lambda)^t$.

    Args:
        rules: Ordered `(regex, rate)`; a rate is per step and unit of learning rate.
        lr: Only read to warn, at `init`, of leaves whose dtype swallows `lr * rate`.
    Raises:
        ValueError: If a rate is negative; from `init`, if a leaf has no rule or a rule no leaf.
    Reference:
        Loshchilov & Hutter 2019 (arXiv:1711.05101), with the base learning rate in $\eta_t$.
    """
    return _leafwise("decoupled", rules, lambda u, w, rate: u + rate * w, lr=lr)


def independent(rules: RateRules) -> optax.GradientTransformation:
    r"""Shrinks each weight by its rate a step, whatever the learning rate is.

    $u \leftarrow u - \lambda_t w$. Stands last, after the learning rate. A schedule gives the
    paper's $\eta_t\lambda$.

    Args:
        rules: Ordered `(regex, rate)`; a rate is the fraction taken off per step.
    Raises:
        ValueError: As `decoupled`.
    Reference:
        Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2, line 12.
    """
    return _leafwise("independent", rules, lambda u, w, rate: u - rate * w, lr=1.0)


def l2(rules: RateRules) -> optax.GradientTransformation:
    r"""Adds the gradient of $\frac{\lambda}{2}\lVert w\rVert^2$ to that of the loss.

    $g \leftarrow g + \lambda_t w$. Stands first, before clipping and moments. For plain SGD it
    is `independent` at rate $lr\,\lambda$; for adaptive optimizers it is not a decay.

    Args:
        rules: Ordered `(regex, rate)`.
    Raises:
        ValueError: As `decoupled`.
    Reference:
        Loshchilov & Hutter 2019 (arXiv:1711.05101), propositions 1 and 2.
    """
    return _leafwise("l2", rules, lambda u, w, rate: u + rate * w)


def l1(rules: RateRules) -> optax.GradientTransformation:
    r"""Adds the subgradient of $\lambda\lVert w\rVert_1$ to the gradient of the loss.

    $g \leftarrow g + \lambda_t\,\mathrm{sign}(w)$, with sign(0) = 0. Stands first. Weights
    oscillate around zero; for exact zeros use `proximal_l1`.

    Args:
        rules: Ordered `(regex, rate)`.
    Raises:
        ValueError: As `decoupled`.
    """
    return _leafwise("l1", rules, lambda u, w, rate: u + rate * jnp.sign(w))


def proximal_l1(rules: RateRules) -> optax.GradientTransformation:
    r"""Soft-thresholds the stepped weights: small ones become exactly zero.

    $w \leftarrow S_{\lambda_t}(w + u)$, $S_\lambda(x) = \mathrm{sign}(x)\max(|x| - \lambda, 0)$.
    Stands last, after the learning rate. Proximal gradient descent on
    $f + \lambda'\lVert w\rVert_1$ is SGD with rate $lr\,\lambda'$.

    Args:
        rules: Ordered `(regex, rate)`; a rate is the threshold per step, in units of weights.
    Raises:
        ValueError: As `decoupled`.
    Reference:
        Parikh & Boyd 2014, Proximal Algorithms.
    """
    return _leafwise("proximal_l1", rules, lambda u, w, rate: soft_threshold(w + u, rate) - w)


def cautious(rules: RateRules, *, lr: Rate | None = None) -> optax.GradientTransformation:
    r"""Decays a weight only where the optimizer's step already moves it towards zero.

    $u \leftarrow u + \lambda_t\,\mathbb{1}[u w \ge 0]\,w$. Stands where `decoupled` does.

    Args:
        rules: Ordered `(regex, rate)`, as `decoupled`.
        lr: Only read to warn, as `decoupled`.
    Raises:
        ValueError: As `decoupled`.
    Reference:
        Chen et al. 2025, Cautious Weight Decay (arXiv:2510.12402).
    """

    def term(u: Update, w: Update, rate: Inexact[Array, ""]) -> Update:
        opposed = jnp.sign(u) * jnp.sign(w) < 0
        return u + jnp.where(opposed, 0, rate * w)

    return _leafwise("cautious", rules, term, lr=lr)


def scale_by_rules(rules: RateRules) -> optax.GradientTransformation:
    r"""Multiplies each leaf's update by its rate: learning rates by rules; None is 1.

    Stands last to scale a decoupled decay too, before it to leave the decay alone. A factor of 0
    stops the leaf here, but its moments go on and a later term still moves it.

    Args:
        rules: Ordered `(regex, factor)`.
    Raises:
        ValueError: As `decoupled`.
    """
    return _leafwise("scale_by_rules", rules, lambda u, w, rate: rate * u)


def soft_threshold(
    x: Inexact[Array, "*shape"], threshold: Inexact[Array, ""]
) -> Inexact[Array, "*shape"]:
    """Moves each entry towards zero by `threshold`, and no further."""
    return jnp.where(jnp.abs(x) > threshold, x - threshold * jnp.sign(x), 0)


def with_terms(
    term: Term,
    updates: Tree,
    weights: dict[str, jax.Array],
    rates: dict[str, Rate | None],
    step: Int[Array, ""],
) -> Tree:
    """`term(update, weight, rate)` at each leaf that has a rate; dtypes are the updates'."""
    new = {}
    for path, update in leaves(updates).items():
        if (rate := rates[path]) is not None:
            weight = weights[path].astype(update.dtype)
            new[path] = term(update, weight, rate_at(rate, step, update.dtype))
    return replace(updates, new)


def given(params: Tree | None, purpose: str) -> Tree:
    """The weights, which optax lets a caller leave out.

    Raises:
        ValueError: If they were left out.
    """
    if params is None:
        raise ValueError(f"{purpose} needs the weights: call `tx.update(updates, state, params)`.")
    return params


def _leafwise(
    purpose: str, rules: RateRules, term: Term, *, lr: Rate | None = None
) -> optax.GradientTransformation:
    check_rates(rules, purpose)

    def init(params: Tree) -> DecayState:
        resolve_rates(rules, params, purpose)
        if lr is not None:
            warn_underflow(params, rules, lr, purpose)
        return DecayState(jnp.zeros((), jnp.int32))

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, DecayState]:
        params = given(params, purpose)
        rates = resolve_rates(rules, params, purpose)
        updates = with_terms(term, updates, leaves(params), rates, state.step)
        return updates, DecayState(state.step + 1)

    return optax.GradientTransformation(init, update)
