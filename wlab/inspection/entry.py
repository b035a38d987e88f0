"""What inspection needs to know of an array that it does not hold: its header."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Entry(Protocol):
    """One array of a file, as its header describes it."""

    @property
    def path(self) -> str:
        """Where it stands, as `block_0/attn/q/kernel`."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> str:
        """The name of its dtype, as `bfloat16`."""
        ...

    @property
    def nbytes(self) -> int:
        """Its true bytes."""
        ...

    @property
    def sharding(self) -> str | None:
        """How it was laid out, if that is known."""
        ...
