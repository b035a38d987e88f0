"""A JSON file that is to be an object."""

import json
from pathlib import Path
from typing import Any

_MAX_TEXT = 200_000_000  # bytes


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: If it is not JSON, not an object, or larger than 200 MB.
    """
    size = path.stat().st_size
    if size > _MAX_TEXT:
        raise ValueError(f"{path} has {size:,} bytes; at most {_MAX_TEXT:,} are read as JSON.")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is a JSON {type(found).__name__}, not an object.")
    return found
