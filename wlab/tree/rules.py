"""Rules: an ordered list of `(regex, value)`; the first full match of a leaf's path wins.

One language picks initializers, decay, learning rates, masks, formats and shardings.
Nothing is left out by accident: every leaf needs a rule and every rule a leaf.
"""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from wlab.tree.paths import Tree, param_leaves

T = TypeVar("T")
Rules: TypeAlias = Sequence[tuple[str, T]]

_CATCH_ALL = ".*"


def resolve(rules: Rules[T], tree: Tree, *, purpose: str = "rules") -> dict[str, T]:
    """The value of each leaf, by path.

    Extra trainables (`+/...`) are left out: a transform's rules speak of parameters.

    Args:
        rules: Ordered `(regex, value)`. A trailing `(".*", value)` may match nothing.
        tree: Any pytree; leaves may be arrays or shapes.
        purpose: What the rules are for, named in errors.

    Raises:
        ValueError: If a leaf has no rule, or a rule is the first match of no leaf.
        TypeError: If the rules are no list of pairs.
    """
    return match(rules, list(param_leaves(tree)), purpose=purpose)


def match(rules: Rules[T], paths: Sequence[str], *, purpose: str = "rules") -> dict[str, T]:
    """The value of each path; the paths may come from a file instead of a tree.

    Raises:
        ValueError: As `resolve`.
        TypeError: As `resolve`.
    """
    refuse_no_pairs(rules, purpose)
    patterns = [_compile(pattern, purpose) for pattern, _ in rules]
    chosen = {path: _first_match(patterns, path) for path in paths}
    for path, index in chosen.items():
        if index is None:
            raise ValueError(
                f"{purpose}: no rule matches leaf {path!r}; rules tried: {_patterns(rules)}. "
                'Add a final (".*", value) for the leaves you do not name.'
            )
    used = set(chosen.values())
    for index, (pattern, _) in enumerate(rules):
        is_catch_all = index == len(rules) - 1 and pattern == _CATCH_ALL
        if index not in used and not is_catch_all:
            raise ValueError(_dead_rule(rules, index, paths, purpose))
    return {path: rules[index][1] for path, index in chosen.items() if index is not None}


def selected(rules: Rules[bool | None], tree: Tree, *, purpose: str = "rules") -> list[str]:
    """The paths whose rule's value is true (not None, not False), in tree order."""
    return [path for path, value in resolve(rules, tree, purpose=purpose).items() if value]


def refuse_no_pairs(rules: Any, purpose: str) -> None:
    """Refuses a single pair, a mapping, or whatever else is no list of a regex and a value each.

    Raises:
        TypeError: If it is.
    """
    is_list = isinstance(rules, Sequence) and not isinstance(rules, str)
    if not is_list or not all(map(_is_pair, rules)):
        raise TypeError(
            f"{purpose}: rules are a list of (regex, value) in the order in which they are tried, "
            f'as [(".*kernel", True), (".*", None)]; got {str(rules)[:80]}.'
        )


def _is_pair(rule: Any) -> bool:
    return isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)


def _first_match(patterns: list[re.Pattern[str]], path: str) -> int | None:
    return next((i for i, pattern in enumerate(patterns) if pattern.fullmatch(path)), None)


def _compile(pattern: str, purpose: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{purpose}: {pattern!r} is not a regular expression: {error}.") from None


def _dead_rule(rules: Rules[Any], index: int, paths: Sequence[str], purpose: str) -> str:
    pattern = rules[index][0]
    hidden = [path for path in paths if re.fullmatch(pattern, path)]
    why = (
        f"its leaves (such as {hidden[0]!r}) are taken by earlier rules; move it up"
        if hidden
        else f"the leaves are {list(paths)[:8]}{' …' if len(paths) > 8 else ''}; mend or remove it"
    )
    return f"{purpose}: rule {pattern!r} matches no leaf: {why}."


def _patterns(rules: Rules[Any]) -> list[str]:
    return [pattern for pattern, _ in rules]
