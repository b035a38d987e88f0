"""The recipe of a run: a plain-JSON dict of rules and hyper-parameters, compared line by line."""

import json
from importlib import metadata
from platform import python_version
from typing import Any

_PACKAGES = ("weightlab", "jax", "optax", "orbax-checkpoint")


def versions() -> dict[str, str]:
    """The versions that a bit-exact resume depends on."""
    return {"python": python_version()} | {name: _version(name) for name in _PACKAGES}


def plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe as it reads after a trip through JSON: tuples are lists.

    Raises:
        TypeError: If a value is not plain JSON, naming its key.
    """
    for key, value in recipe.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"recipe: {key!r} is not plain JSON ({error}). "
                "Use numbers, strings, lists and dicts."
            ) from None
    return json.loads(json.dumps(recipe))


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each key that differs, as `prune.density: saved 0.1, now 0.2`."""
    before, after = _flat(plain(saved)), _flat(plain(now))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: saved {before.get(key, '(absent)')}, now {after.get(key, '(absent)')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _flat(recipe: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value, ensure_ascii=False)
    return flat


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
