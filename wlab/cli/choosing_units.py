"""Which units of a network `wlab shrink` leaves."""

import argparse
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

Counts: TypeAlias = Mapping[str, Callable[[Any], int]]
"""By what is counted: which units stay → how much there is of it."""

_SHARES = ("density", "multiply_adds", "weights")
_HALVINGS = 12  # of the density, in search of the largest within a budget


def share(args: argparse.Namespace) -> str | None:
    """Which share is asked for."""
    return next((name for name in _SHARES if getattr(args, name) is not None), None)


def counts(network: Any, groups: Any, tokens: int) -> Counts:
    """The weights, and the multiply-adds of one image or so many tokens."""
    import jax

    from wlab import graph, tree
    from wlab.pretrained.narrowing import example
    from wlab.pretrained.networks.network import with_leaves

    inputs = example(network, tokens)

    def left(keep: graph.Keep) -> tuple[graph.Shrunk, Any]:
        small = graph.shrink(groups, keep)
        return small, jax.eval_shape(small.params, groups.graph.params)

    def weights(keep: graph.Keep) -> int:
        return tree.count(with_leaves(network, left(keep)[1]).params)

    def multiply_adds(keep: graph.Keep) -> int:
        small, leaves = left(keep)
        return graph.multiply_adds(graph.read(small.fn, leaves, inputs))

    return {"weights": weights, "multiply_adds": multiply_adds}


def kept(args: argparse.Namespace, network: Any, groups: Any, counts: Counts) -> dict[str, Any]:
    """Which units stay: the largest, or those that are not zero.

    Raises:
        ValueError: If none is zero, no network is within the budget, or the rules fit no group.
    """
    from wlab import pruning
    from wlab.data.progress import progress

    wanted = share(args)
    if wanted is None:
        return _not_zero(args.source, network, groups)
    scores = pruning.unit_scores(groups, _squares(network))
    rules = _rules(args.rules, groups)
    choose = partial(pruning.best_units, groups, scores, rules=rules, round_to=args.round_to)
    if wanted == "density":
        return choose(args.density)
    budget, tried = getattr(args, wanted) * counts[wanted]({}), 0
    with progress("searching", _HALVINGS + 2, unit="networks") as report:

        def cost(keep: Any) -> int:
            nonlocal tried
            tried += 1
            report(tried)
            return counts[wanted](keep)

        return dict(pruning.units_within(budget, choose, cost, steps=_HALVINGS))


def _not_zero(source: str, network: Any, groups: Any) -> dict[str, Any]:
    from wlab import graph
    from wlab.pretrained.networks.network import whole_tree

    keep = graph.emptied(groups, whole_tree(network), where=_is_weight(network))
    if not keep:
        raise ValueError(
            f"every unit of {source} has a weight that is not zero: say what is to be left with "
            "--density, --multiply-adds or --weights."
        )
    return keep


def _squares(network: Any) -> Any:
    """Of the weights; zero of statistics, which are none."""
    import jax.numpy as jnp

    from wlab import tree
    from wlab.pretrained.networks.network import whole_tree

    is_weight = _is_weight(network)
    return tree.map_leaves(
        lambda path, x: jnp.square(x) if is_weight(path) else jnp.zeros_like(x), whole_tree(network)
    )


def _is_weight(network: Any) -> Callable[[str], bool]:
    from wlab.models import StatefulModel

    first = "params/" if isinstance(network.model, StatefulModel) else ""
    return lambda path: path.startswith(first)


def _rules(given: Any, groups: Any) -> list[tuple[str, Any]]:
    """The share of every group: what the first rule says, else whether the network makes it."""
    from wlab import tree

    found = tree.match([*given, (".*", None)], list(groups.groups), purpose="shrink")
    return [
        (re.escape(name), groups.groups[name].made if said is None else said)
        for name, said in found.items()
    ]
