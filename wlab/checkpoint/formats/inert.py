"""What a pickle describes, as values that do nothing."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function, in its present spelling: `numpy._core`, `builtins`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that were left where they lie, from `begin` to `end` of the pickle's file."""

    begin: int
    end: int


@dataclass(eq=False, repr=False, slots=True)  # both would follow references without end
class Object:
    """What was to be made by calling `of`, and was not.

    Attributes:
        of: A class or function.
        args: What it was to be called with; of an instance that was made in a roundabout way
            (`copyreg`, keyword arguments) all of that in one or two values.
        state: What was to be set on the result.
        items: What was to be appended.
        pairs: What was to be set by key; a dict is an `Object` of `builtins.dict`.
    """

    of: Global
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] | tuple[()] = ()  # a list once there are any: most have none
    pairs: list[tuple[Any, Any]] | tuple[()] = ()
