"""The other files that a file names: only in its own folder, whatever it says."""

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


def shard(index: Path, name: Any, *, links: bool = False) -> Path:
    """The file that `index` calls `name`, below its own folder.

    Args:
        index: The file that names it.
        name: What it says.
        links: Whether a symbolic link may lead out of the folder.

    Raises:
        ValueError: If the name is absolute, climbs with `..`, leads out of the folder by a link,
            or there is no such file.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{index}: {str(name)[:80]!r} is not the name of a file.")
    parts = PurePosixPath(name).parts + PureWindowsPath(name).parts
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise ValueError(f"{index} names {name!r}, which is not below its own folder.")
    path = index.parent / name
    try:
        inside = links or path.resolve().is_relative_to(index.parent.resolve())
        found = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{index} names {name[:80]!r}, which cannot be looked up: {error}."
        ) from None
    if not inside:
        raise ValueError(f"{index} names {name!r}, a link that leads out of its folder.")
    if not found:
        raise ValueError(f"{index} names {name!r}, but there is no such file beside it.")
    return path
