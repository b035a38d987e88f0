"""The resolved plan of any number of rule sets, before anything is trained."""

from typing import Any

import jax.numpy as jnp

from wlab.table import Table
from wlab.tree.paths import Tree, param_leaves
from wlab.tree.rules import Rules, resolve


def explain(params: Tree, **rule_sets: Rules[Any]) -> Table:
    """What every rule set says of every leaf: a row a leaf, a column a rule set.

    Example:
        `print(explain(params, decay=decay_rules, prune=prune_rules))`

    Raises:
        ValueError: If a leaf has no rule or a rule no leaf, naming the rule set.
    """
    resolved = {name: resolve(rules, params, purpose=name) for name, rules in rule_sets.items()}
    rows = tuple(
        (path, describe(leaf), *(_value(values[path]) for values in resolved.values()))
        for path, leaf in param_leaves(params).items()
    )
    return Table(("path", "leaf", *rule_sets), rows)


def describe(leaf: Any) -> str:
    """The dtype and shape of an array or a shape, as `float32[784,300]`."""
    return f"{jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"


def _value(value: Any) -> Any:
    is_plain = value is None or isinstance(value, bool | int | float | str)
    return value if is_plain else getattr(value, "__name__", str(value))
