"""Pickles of nested dicts, lists and tuples of NumPy or JAX arrays."""

import mmap
from pathlib import Path

from wlab.checkpoint.formats.flattening import flatten
from wlab.checkpoint.formats.pickled_values import CALLS, opened
from wlab.checkpoint.formats.pickles import read_pickle
from wlab.checkpoint.source import Source


def open_pickle(path: Path, *, strict: bool = True) -> Source:
    """The arrays of a pickle by path, as `AlexNet_0/Conv_0/kernel`; nothing in it is run.

    What is no array is in the metadata, nested as in the file. Arrays pickled with protocol 3
    or later are read from the file when they are asked for; older ones stay in memory, since
    there their bytes are spelled as text.

    Args:
        path: The file.
        strict: Refuse pickles that call what does not rebuild arrays and containers; otherwise
            such a call is read as a dict of its arguments and, as `class`, what it would call.

    Raises:
        ValueError: If the file is no pickle, is cut off or malformed, calls something else, or
            holds arrays of Python objects, naming the array or the call.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            root = read_pickle(data, calls=CALLS if strict else None)
        arrays, rest = flatten(root, lambda name, value: opened(path, name, value), separator="/")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a pickle of arrays: {error}.") from None
    return Source(path, "pickle", arrays, rest)
