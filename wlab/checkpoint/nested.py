"""Between flat dicts, as files hold them, and trees."""

from collections.abc import Mapping
from typing import Any

from wlab.tree import leaves, replace


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Splits paths at slashes into nested dicts: `{"a/b": x}` becomes `{"a": {"b": x}}`.

    Raises:
        ValueError: If one path goes on where another ends.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or name in node:
            raise ValueError(f"Path {path!r} and another one end inside each other; rename one.")
        node[name] = leaf
    return tree


def fill(like: Any, flat: Mapping[str, Any], *, source: str) -> Any:
    """Puts the arrays of `flat` into the structure of `like`, or nests them if it is None.

    Raises:
        ValueError: If a leaf is missing, extra, or of another shape or dtype, naming it.
    """
    if like is None:
        return nest(flat)
    named = leaves(like)
    for path in (*named, *flat):
        if path not in flat:
            raise ValueError(f"{source}: leaf {path!r} is missing.")
        if path not in named:
            raise ValueError(f"{source}: leaf {path!r} has no place in the tree to fill.")
        found, wanted = _describe(flat[path]), _describe(named[path])
        if found != wanted:
            raise ValueError(f"{source}: leaf {path!r} is {found}, {wanted} is wanted.")
    return replace(like, flat)


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
