"""Pickles read as data: the opcodes are followed, nothing is imported and nothing is called.

What a pickle would build stays a description: a class or function is its name (`Global`), an
instance or a call is an `Object` with the arguments and state that were stored for it. Other
files say what a few names mean (a tensor, an OrderedDict); all the rest remains inert.
"""

import pickletools
import warnings
from collections.abc import Callable, Collection
from typing import Any

from wlab.checkpoint.formats.pickle_machine import Machine, Readable

_CODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_MAX_OPCODES = 2_000_000  # an opcode of one byte can cost a hundred in memory


def read_pickle(
    file: Readable,
    *,
    calls: Collection[str] | None,
    persistent: Callable[[Any], Any] | None = None,
    end: int | None = None,
) -> Any:
    """The value of the pickle at the file's position, which is left behind its end.

    Lists, tuples, text and numbers are themselves; bytes are too when they are few, else a
    `Piece`. Making an instance of a class (`__new__`, which every protocol since 2 names) always
    gives an inert `Object`. Any other call gives one only when its name is in `calls`.

    Args:
        file: The bytes, in memory or mapped.
        calls: The calls to describe, as `collections.OrderedDict`; None describes all.
        persistent: Gives the value of a persistent id; without it there may be none.
        end: Where in the file no opcode begins any more; None for the end of the file.

    Raises:
        ValueError: If the pickle is malformed or cut off, calls what is not in `calls`, or has
            more than two million opcodes.
    """
    machine = Machine(file, calls, persistent)
    # Of escapes that are none: Python warns of them, in bytes that nobody promised to be text.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return _run(machine, end)


def _run(machine: Machine, end: int | None) -> Any:
    file = machine.file
    for _ in range(_MAX_OPCODES):
        at = file.tell()
        code = file.read(1) if end is None or at < end else b""
        opcode = _CODES.get(code.decode("latin-1"))
        if opcode is None:
            what = f"the unknown opcode {code!r}" if code else "its end"
            raise ValueError(f"the pickle is malformed: {what} at byte {at:,}")
        try:
            machine.step(opcode)
            if opcode.name == "STOP":
                return machine.pop()
        except (IndexError, KeyError, TypeError):
            raise ValueError(
                f"the pickle is malformed: {opcode.name} at byte {at:,} does not fit what is "
                "before it"
            ) from None
    raise ValueError(f"the pickle has more than {_MAX_OPCODES:,} opcodes")
