"""Optimizers as named chains: short enough to copy and change.

The order is always: l2 · clip · the optimizer's own scaling · decay · learning rate. Links are
named, so a state is read as `state["adam"].mu` whatever else is in the chain. `l2` rules add to
the loss gradient and `decay` rules are `decoupled`; any other term of this package is one
`optax.chain` away.
"""

from typing import TypeAlias

import optax

from wlab.decay.muon import MuonRules, muon_labels, orthogonalized
from wlab.decay.rates import Rate, RateRules
from wlab.decay.terms import decoupled
from wlab.decay.terms import l2 as l2_term

Optimizer: TypeAlias = optax.GradientTransformation


def sgd(lr: Rate, l2: RateRules | None = None, *, clip: float | None = None) -> Optimizer:
    r"""Gradient descent: $w \leftarrow w - lr\,g$."""
    return _recipe(lr, {}, l2=l2, clip=clip)


def momentum(
    lr: Rate,
    l2: RateRules | None = None,
    *,
    beta: float = 0.9,
    nesterov: bool = False,
    clip: float | None = None,
) -> Optimizer:
    r"""SGD along $m \leftarrow \beta m + g$.

    Reference:
        Polyak 1964; Nesterov's form as in Sutskever et al. 2013 (ICML).
    """
    return _recipe(lr, {"momentum": optax.trace(beta, nesterov)}, l2=l2, clip=clip)


def adagrad(
    lr: Rate,
    l2: RateRules | None = None,
    *,
    initial: float = 0.1,
    eps: float = 1e-7,
    clip: float | None = None,
) -> Optimizer:
    r"""Divides by the root of the sum of squared gradients, which starts at `initial`.

    Reference:
        Duchi, Hazan & Singer 2011 (JMLR 12).
    """
    return _recipe(lr, {"adagrad": optax.scale_by_rss(initial, eps)}, l2=l2, clip=clip)


def rmsprop(
    lr: Rate,
    l2: RateRules | None = None,
    *,
    beta: float = 0.9,
    eps: float = 1e-8,
    clip: float | None = None,
) -> Optimizer:
    r"""Divides by the root of a running mean of squared gradients.

    Reference:
        Tieleman & Hinton 2012, Coursera lecture 6e.
    """
    return _recipe(lr, {"rmsprop": optax.scale_by_rms(beta, eps)}, l2=l2, clip=clip)


def adam(
    lr: Rate,
    l2: RateRules | None = None,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip: float | None = None,
) -> Optimizer:
    r"""Running means of the gradient and its square, $\hat m / (\sqrt{\hat v} + \epsilon)$.

    Reference:
        Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1.
    """
    return _recipe(lr, {"adam": optax.scale_by_adam(b1, b2, eps)}, l2=l2, clip=clip)


def adamw(
    lr: Rate,
    decay: RateRules,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip: float | None = None,
) -> Optimizer:
    """Adam with decoupled decay, times lr.

    Reference:
        Loshchilov & Hutter 2019 (arXiv:1711.05101), algorithm 2.
    """
    return _recipe(lr, {"adam": optax.scale_by_adam(b1, b2, eps)}, decay=decay, clip=clip)


def lion(
    lr: Rate,
    decay: RateRules | None = None,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    clip: float | None = None,
) -> Optimizer:
    """The sign of an interpolated momentum; wants 3–10 times less lr than Adam, and more decay.

    Reference:
        Chen et al. 2023 (arXiv:2302.06675).
    """
    return _recipe(lr, {"lion": optax.scale_by_lion(b1, b2)}, decay=decay, clip=clip)


def muon(
    lr: Rate,
    matrices: MuonRules,
    decay: RateRules | None = None,
    *,
    beta: float = 0.95,
    adam_scale: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.95,
    clip: float | None = None,
) -> Optimizer:
    """Orthogonalized momentum for the hidden matrices that `matrices` names, Adam for the rest.

    Embeddings, heads and tied tables are matrices too, but not Muon's: give them None. (optax
    sends every 2-D leaf to Muon.) Its orthogonalization raises on leaves sharded along explicit
    mesh axes as of optax 0.2.8: use Auto axes.

    Args:
        lr: Muon's learning rate; 0.02 is its author's.
        matrices: True for a 2-D (in, out) leaf, `MuonDimensionNumbers` for another shape.
        decay: Decoupled, times lr, for Muon's and Adam's leaves alike.
        adam_scale: Adam's learning rate as a multiple of lr; decay is not scaled by it.
    Raises:
        ValueError: From `init`, if a leaf with True is not 2-D, has no rule, or a rule no leaf.
    Reference:
        Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks.
    """
    adam = optax.named_chain(
        ("adam", optax.scale_by_adam(b1, b2)), ("scale", optax.scale(adam_scale))
    )
    scaling = optax.partition(
        {"muon": orthogonalized(matrices, beta=beta), "adam": adam}, muon_labels(matrices)
    )
    return _recipe(lr, {"muon": scaling}, decay=decay, clip=clip)


def _recipe(
    lr: Rate,
    scaling: dict[str, Optimizer],
    *,
    l2: RateRules | None = None,
    decay: RateRules | None = None,
    clip: float | None = None,
) -> Optimizer:
    for name, value in (("lr", lr), ("clip", clip)):
        if isinstance(value, float | int) and not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}.")
    links = {
        "l2": None if l2 is None else l2_term(l2),
        "clip": None if clip is None else optax.clip_by_global_norm(clip),
        **scaling,
        "decay": None if decay is None else decoupled(decay, lr=lr),
        "lr": optax.scale_by_learning_rate(lr),
    }
    return optax.named_chain(*((name, link) for name, link in links.items() if link is not None))
