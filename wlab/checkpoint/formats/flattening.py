"""From what a file nests to arrays by path, and the rest as it was nested."""

from collections.abc import Callable, Iterable
from typing import Any

from wlab.checkpoint.source import Lazy

_MAX_DEPTH = 100
_MAX_NAME = 4_096  # characters
_MAX_WORK = 2**26  # a value counts 64, and each character of its name 1: a million values
_ROOT = "array"
_GONE = object()


def keyed(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """The pairs by the text of their keys, which are text or numbers.

    Raises:
        ValueError: If a key is neither, or two keys have the same text.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str | int | float | None):
            raise ValueError(
                f"a dict has a key that is no text or number, but {type(key).__name__}"
            )
        text = str(key)
        if text in found:
            raise ValueError(f"a dict holds the key {text[:80]!r} twice")
        found[text] = value
    return found


def flatten(
    root: Any, opened: Callable[[str, Any], Any], *, separator: str
) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """The arrays by path, and what else there is.

    Dicts and lists give their keys and positions to the path. What is left of them without the
    arrays is the second result; a container of nothing else is not in it. A lone array is
    called `array`, a lone other value is under the key `value`.

    Args:
        root: Any value.
        opened: Given a path and a value, the `Lazy`, dict, list or plain value that it stands for.
        separator: Between the parts of a path.

    Raises:
        ValueError: If a container holds itself, two arrays have one path, a path is longer than
            4,096 characters, or there are more than 100 levels or about a million values.
    """
    arrays: dict[str, Lazy] = {}
    around: set[int] = set()
    work = 0

    def visit(name: str, value: Any) -> Any:
        nonlocal work
        work += 64 + len(name)
        if work > _MAX_WORK or len(name) > _MAX_NAME or len(around) > _MAX_DEPTH:
            raise ValueError(
                f"at {name[:80]!r} it nests deeper, holds more values (shared ones counted each "
                "time), or has longer names than files of arrays do"
            )
        if id(value) in around:
            raise ValueError(f"{name[:80]!r} is a container that holds itself")
        return place(name, value, opened(name, value))

    def place(name: str, value: Any, found: Any) -> Any:
        if isinstance(found, Lazy):
            if arrays.setdefault(name or _ROOT, found) is not found:
                raise ValueError(f"two arrays are called {name!r}")
            return _GONE
        if not isinstance(found, dict | list):
            return found
        around.add(id(value))
        parts = found if isinstance(found, dict) else dict(enumerate(found))
        rest = {k: visit(f"{name}{separator if name else ''}{k}", v) for k, v in parts.items()}
        around.remove(id(value))
        kept = {k: v for k, v in rest.items() if v is not _GONE}
        if not kept:
            return _GONE
        whole = isinstance(found, list) and len(kept) == len(rest)
        return list(kept.values()) if whole else {str(k): v for k, v in kept.items()}

    rest = visit("", root)
    if rest is _GONE:
        return arrays, {}
    return arrays, rest if isinstance(rest, dict) else {"value": rest}
