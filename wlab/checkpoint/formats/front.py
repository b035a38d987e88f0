"""Reading a file from its front, without believing the lengths that it claims."""

import struct
from pathlib import Path
from typing import Any, BinaryIO


class Front:
    """Takes bytes off the front of an open file, never more than the part of it in hand.

    Attributes:
        path: What errors name.
        file: Open for reading, at the first byte to take.
        left: Bytes that may still be taken.
    """

    def __init__(self, path: Path, file: BinaryIO, left: int) -> None:
        self.path, self.file, self.left = path, file, left

    def spend(self, count: int, what: str) -> None:
        """Counts bytes as taken.

        Raises:
            ValueError: If there are not so many, naming `what` they should have been.
        """
        if count > self.left:
            raise ValueError(
                f"{self.path} is truncated or damaged: {what} needs {count:,} bytes where "
                f"{self.left:,} are left."
            )
        self.left -= count

    def take(self, count: int, what: str) -> bytes:
        """The next bytes, or the error of `spend`."""
        self.spend(count, what)
        found = self.file.read(count)
        if len(found) != count:
            raise ValueError(f"{self.path} has become shorter while {what} was read.")
        return found

    def number(self, code: str, what: str) -> Any:
        """The next little-endian number, by its code in `struct`."""
        return self.numbers(code, what)[0]

    def numbers(self, codes: str, what: str) -> tuple[Any, ...]:
        """The next little-endian numbers, by their codes in `struct`, as `4i`."""
        return struct.unpack(f"<{codes}", self.take(struct.calcsize(f"<{codes}"), what))
