"""Whole layers that share their weights, as a list of ties."""

import re
from collections.abc import Mapping

from wlab.transform import Params
from wlab.tree import describe, leaves, match, selected
from wlab.tying.spec import Tie


def share(params: Params, layers: str, *, groups: int = 1, only: str = ".*") -> list[Tie]:
    r"""Ties each layer to the first of its group; the groups are runs of neighbours.

    Layer i of L belongs to group `i * groups // L`, as in ALBERT.

    Args:
        params: The seen tree: arrays or shapes.
        layers: Regex of whole paths with one group, the layer's number: `block_(\d+)/.*`.
        groups: How many sets of weights are kept: 1 shares all layers, L none.
        only: Regex of whole paths: share only these, such as `.*/attn/.*`.

    Raises:
        ValueError: If a pattern matches nothing or captures no number, if there are fewer
            layers than groups, or if layers of one group differ.

    Reference:
        Lan et al. 2020 (arXiv:1909.11942), section 3.1 and table 4.
    """
    by_layer = _by_layer(params, layers, only)
    numbers = sorted(by_layer)
    if not 1 <= groups <= len(numbers):
        raise ValueError(
            f"share: groups must be between 1 and the {len(numbers)} layers, got {groups}."
        )
    ties: list[Tie] = []
    firsts: dict[int, int] = {}
    for i, number in enumerate(numbers):
        first = firsts.setdefault(i * groups // len(numbers), number)
        if number != first:
            ties += _tie_layer(params, by_layer[number], by_layer[first])
    return ties


def _by_layer(params: Params, layers: str, only: str) -> dict[int, dict[str, str]]:
    """Each layer's paths, keyed by what is left when the layer's number is taken away."""
    inside = selected([(layers, True), (".*", False)], params, purpose="share: layers")
    chosen = match([(only, True), (".*", False)], inside, purpose="share: only")
    found: dict[int, dict[str, str]] = {}
    for path in inside:
        if chosen[path]:
            start, end = _number(layers, path)
            name = f"{path[:start]}#{path[end:]}"
            found.setdefault(int(path[start:end]), {})[name] = path
    return found


def _number(layers: str, path: str) -> tuple[int, int]:
    """Where the layer's number stands in the path."""
    found = re.fullmatch(layers, path)
    captured = found.groups() if found else ()
    if found is None or len(captured) != 1 or not (captured[0] or "").isdecimal():
        raise ValueError(
            f"share: {layers!r} must capture the layer's number and nothing else, but in "
            f"{path!r} it captures {captured}. "
            r"Write `block_(\d+)/.*`, and `(?:...)` for other groups."
        )
    return found.span(1)


def _tie_layer(params: Params, layer: Mapping[str, str], first: Mapping[str, str]) -> list[Tie]:
    found = leaves(params)
    if unpaired := sorted(layer.keys() ^ first.keys()):
        has, lacks = (layer, first) if unpaired[0] in layer else (first, layer)
        raise ValueError(
            f"share: {has[unpaired[0]]!r} has no counterpart in the layer of "
            f"{next(iter(lacks.values()))!r}. Narrow `only` to what the layers have in common."
        )
    for name, path in layer.items():
        mine, theirs = found[path], found[first[name]]
        if describe(mine) != describe(theirs):
            raise ValueError(
                f"share: {path!r} is {describe(mine)}, but {first[name]!r} is "
                f"{describe(theirs)}. Narrow `only` to leaves of one shape and dtype."
            )
    return [Tie(path, first[name]) for name, path in layer.items()]
